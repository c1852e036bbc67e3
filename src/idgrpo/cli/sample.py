"""`idgrpo sample`: cases and a base (with or without a policy) -> videos."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from idgrpo.cli.options import (
    ConfigOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    NameOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    SetOption,
    StoreOption,
)

if TYPE_CHECKING:
    from idgrpo.bases.config import SampleConfig
    from idgrpo.bases.contract import BaseEntry
    from idgrpo.records.case import Case
    from idgrpo.store.artifact import Artifact
    from idgrpo.store.store import Store

BaseOption = Annotated[
    str | None,
    typer.Option(help="vace, vace-14b, phantom, phantom-14b, tiny-vace, tiny-phantom (name@commit pins), or a path."),
]
CasesOption = Annotated[
    str | None, typer.Option(help="Cases: artifact or file (.jsonl, .csv). Default: the newest of the store.")
]
PolicyOption = Annotated[str | None, typer.Option(help="Policy to put on the base: artifact or adapter folder.")]
NumOption = Annotated[int | None, typer.Option("--num-per-case", min=1, help="Clips for each case, with rising seeds.")]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Denoising steps.")]
ShiftOption = Annotated[float | None, typer.Option(help="Shift of the noise schedule.")]
SizeOption = Annotated[str | None, typer.Option(help="WIDTHxHEIGHTxFRAMES, such as 416x240x33.")]
GuidanceOption = Annotated[float | None, typer.Option(help="Guidance scale (Phantom: of the text).")]
ImageGuidanceOption = Annotated[float | None, typer.Option(help="Phantom's guidance scale of the references.")]
SolverOption = Annotated[str | None, typer.Option(help="euler or second-order.")]
LawOption = Annotated[str | None, typer.Option(help="Stochastic law in place of the solver: wan, flow, dance, cps.")]
EtaOption = Annotated[float | None, typer.Option(help="Strength of the stochastic law.")]
BatchOption = Annotated[int | None, typer.Option("--batch-size", min=1, help="Clips made together.")]
LosslessOption = Annotated[
    bool | None, typer.Option("--lossless/--h264", help="Lossless video. Default: yes for tiny bases, no for others.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1. Default: the GPU if there is one.")]


def command(
    base: BaseOption = None,
    cases: CasesOption = None,
    policy: PolicyOption = None,
    num_per_case: NumOption = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    shift: ShiftOption = None,
    size: SizeOption = None,
    guidance: GuidanceOption = None,
    image_guidance: ImageGuidanceOption = None,
    solver: SolverOption = None,
    law: LawOption = None,
    eta: EtaOption = None,
    batch_size: BatchOption = None,
    lossless: LosslessOption = None,
    device: DeviceOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make videos of cases with a base, with or without a tuned policy.

    Run the same command again after an interruption: finished videos are kept, the missing ones are made.
    """
    from idgrpo.bases.inventory import weights_of_entry
    from idgrpo.bases.load import resolve_entry
    from idgrpo.cli.output import finish
    from idgrpo.store.store import Store

    sampler: dict[str, Any] = {
        "num_steps": steps,
        "shift": shift,
        "guidance": guidance,
        "image_guidance": image_guidance,
    }
    sampler |= {"solver": solver, "law": law, "eta": eta, "batch_size": batch_size}
    given = {"base": base, "num_per_case": num_per_case, "seed": seed, "lossless": lossless, "device": device}
    settings = _settings(config, sets, given, sampler | _size(size))
    shelf = Store(Path(store)) if store else Store.default()
    adapter = find_policy(shelf, policy)
    settings = _with_base(settings, adapter)
    entry = resolve_entry(settings.named_base)
    source = _cases_source(shelf, cases, entry, settings.seed, dry_run)
    name = name or (settings.base_name if adapter is None else f"{settings.base_name}-tuned")
    if dry_run:
        finish(**_plan(shelf, settings, entry, source, name), artifact=None, quiet=quiet, as_json=as_json)
        return
    inputs = {"cases": source} | ({"policy": adapter} if adapter is not None else {})
    # Reading the weights' digest is also what says that they are missing, before anything else is done.
    resolved = settings.resolved(entry) | weights_of_entry(entry)
    artifact = None if force else shelf.find("samples", name, inputs=inputs, config=resolved)
    if artifact is None:
        artifact = make_samples(shelf, name, inputs, resolved, settings)
    finish(**_result(artifact, settings), artifact=artifact, quiet=quiet, as_json=as_json)


def _size(text: str | None) -> dict[str, int | None]:
    """Parse WIDTHxHEIGHTxFRAMES."""
    from idgrpo.errors import UsageError

    if text is None:
        return {}
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise UsageError(f"--size {text} is not WIDTHxHEIGHTxFRAMES", fix="for example --size 416x240x33")
    return dict(zip(("width", "height", "frames"), map(int, parts), strict=True))


def _settings(
    config: Path | None, sets: list[str] | None, given: dict[str, Any], sampler: dict[str, Any]
) -> "SampleConfig":
    """Join file, --set and options; all of them are checked together."""
    import json

    from idgrpo.bases.config import SampleConfig
    from idgrpo.run.config import load_config

    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    options += [f"sampler.{key}={json.dumps(value)}" for key, value in sampler.items() if value is not None]
    return load_config(SampleConfig, config, [*(sets or []), *options])


def find_policy(shelf: "Store", policy: str | None) -> "Artifact | Path | None":
    """Find the policy: a folder that is no artifact stays a path."""
    if policy is None:
        return None
    folder = Path(policy)
    if folder.is_dir() and not (folder / "manifest.json").is_file():
        return folder.resolve()
    return shelf.resolve(policy, kind="policy")


def _with_base(settings: "SampleConfig", adapter: "Artifact | Path | None") -> "SampleConfig":
    """Take the base that the policy was trained on when none is named."""
    import json

    from idgrpo.errors import UsageError

    if settings.base is not None:
        return settings
    card = (adapter if isinstance(adapter, Path) else adapter.path) / "policy.json" if adapter is not None else None
    named = json.loads(card.read_text()).get("base") if card is not None and card.is_file() else None
    if named is None:
        from idgrpo.bases.entries import ENTRIES

        raise UsageError("no base given", fix=f"say --base, one of {', '.join(ENTRIES)}, or a path")
    return settings.model_copy(update={"base": named})


def _cases_source(
    shelf: "Store", cases: str | None, entry: "BaseEntry", seed: int | None, dry_run: bool
) -> "Artifact | Path":
    """Find the cases: a file, an artifact, the newest of the store, or a fresh set of the embedded world."""
    if cases is not None:
        return Path(cases).resolve() if Path(cases).is_file() else shelf.resolve(cases, kind="cases")
    if entry.architecture == "tiny" and next(iter(shelf.list("cases")), None) is None and not dry_run:
        from idgrpo.cli.sample_cases import publish_tiny_cases

        return publish_tiny_cases(shelf, seed or 0)
    return shelf.resolve("cases", kind="cases")


def _read_cases(source: "Artifact | Path") -> "list[Case]":
    from idgrpo.errors import DataError
    from idgrpo.records.jsonl import read_cases

    path = source if isinstance(source, Path) else source.file("cases.jsonl")
    found = list(read_cases(path))
    if not found:
        raise DataError(f"no cases in {path}", fix="one line of JSON each: id, prompt, references")
    seen: set[str] = set()
    for case in found:
        if case.id in seen:
            raise DataError(f"{path}: case id '{case.id}' is there twice", fix="give each case an id of its own")
        seen.add(case.id)
    return found


def make_samples(
    shelf: "Store", name: str, inputs: dict[str, Any], resolved: dict[str, Any], settings: "SampleConfig"
) -> "Artifact":
    """Make the videos in a run folder that survives a kill, then publish them."""
    import shutil

    from idgrpo.bases.generate import jobs_of
    from idgrpo.bases.inventory import default_device
    from idgrpo.bases.load import load_base
    from idgrpo.bases.sampling import copy_samples, sample_to_folder
    from idgrpo.bases.tuned import load_tuned
    from idgrpo.run.folder import RunFolder
    from idgrpo.run.signals import StopSignal

    cases = _read_cases(inputs["cases"])
    adapter = inputs.get("policy")
    digests = {key: str(value) if isinstance(value, Path) else value.digest for key, value in inputs.items()}
    content = [case.model_dump(mode="json") for case in cases]
    fingerprint = {"config": resolved, "inputs": digests, "cases": _digest(content)}
    # The folder's name holds the fingerprint: the same command finds its run again, another one never collides with it.
    folder = shelf.run_dir(f"sample-{name}-{_digest(fingerprint)[:12]}")
    with RunFolder.open(folder, fingerprint=fingerprint, resume=True) as run:
        base = load_base(
            settings.named_base, device=settings.device or default_device(), vae_tiling=settings.vae_tiling
        )
        if adapter is not None:
            load_tuned(base, adapter if isinstance(adapter, Path) else adapter.path)
        with StopSignal() as stop:
            samples = sample_to_folder(
                base,
                jobs_of(cases, seed=settings.seed, num_per_case=settings.num_per_case),
                run.path / "samples",
                sampler=settings.sampler,
                lossless=settings.lossless,
                policy=None if adapter is None else str(getattr(adapter, "ref", adapter)),
                check=stop.check,
            )
        with shelf.publish("samples", name, inputs=inputs, config=resolved) as draft:
            copy_samples(samples, run.path / "samples", draft.path)
            draft.metrics.update({"num_samples": len(samples), "num_cases": len(cases)})
        shutil.rmtree(run.path / "samples")
    return draft.artifact


def _digest(value: Any) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plan(
    shelf: "Store", settings: "SampleConfig", entry: "BaseEntry", source: "Artifact | Path", name: str
) -> dict[str, Any]:
    """Say what would be done and what it would cost."""
    from idgrpo.bases.cost import clip_size_bytes
    from idgrpo.bases.inventory import cost_lines, cost_of_entry, gpu_memory_gib
    from idgrpo.bases.sampling import COPIES
    from idgrpo.run.machine import free_disk_bytes

    cases = _read_cases(source)
    most = max(len(case.references) for case in cases)
    cost = cost_of_entry(entry, settings.sampler, num_references=most)
    num = len(cases) * settings.num_per_case
    origin = str(source) if isinstance(source, Path) else source.ref
    summary = [f"would make {num} clips of {len(cases)} cases ({origin}) -> samples/{name} in {shelf.root}"]
    estimate = cost_lines(entry, settings.sampler, cost, most, gpu_memory_gib(settings.device))
    summary += estimate
    lossless = entry.lossless if settings.lossless is None else settings.lossless
    disk, free = (
        COPIES * num * clip_size_bytes(settings.sampler.size(entry), lossless=lossless),
        free_disk_bytes(shelf.root),
    )
    summary.append(f"disk, estimated: {disk / 2**20:,.1f} MiB of {free / 2**20:,.0f} MiB free")
    document = {
        "dry_run": True,
        "num_clips": num,
        "cases": origin,
        "name": name,
        "config": settings.resolved(entry),
        "cost": cost.__dict__,
        "estimate": estimate,
        "disk_bytes": disk,
    }
    return {"summary": summary, "document": document}


def _result(artifact: "Artifact", settings: "SampleConfig") -> dict[str, Any]:
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.sample import Sample

    samples = list(read_records(artifact.file("samples.jsonl"), Sample))
    sheets = artifact.path / "contact_sheets"
    summary = [
        f"{len(samples)} clips by {settings.base}: {artifact.ref}",
        f"videos: {artifact.path / 'videos'}",
        f"contact sheets: {sheets}",
    ]
    document = {
        "artifact": artifact.ref,
        "digest": artifact.digest,
        "path": str(artifact.path),
        "base": settings.base,
        "num_samples": len(samples),
        "contact_sheets": str(sheets),
    }
    return {"summary": summary, "document": document}

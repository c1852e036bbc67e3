"""`idgrpo train-policy`: a base, cases and a reward model (GRPO) or stored clips (SFT) -> a policy."""

import hashlib
import json
import os
import sys
from contextlib import nullcontext
from functools import partial
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
    scoring_service,
)

if TYPE_CHECKING:
    from idgrpo.bases.contract import BaseEntry
    from idgrpo.policy.clips import StoredClip
    from idgrpo.policy.config import PolicyConfig
    from idgrpo.records.case import Case
    from idgrpo.reward.client import RewardClient
    from idgrpo.store.artifact import Artifact
    from idgrpo.store.store import Store

    Source = Artifact | Path

BaseOption = Annotated[
    str, typer.Option("--base", help="vace, vace-14b, phantom, phantom-14b, tiny-vace, tiny-phantom, or a path.")
]
CasesOption = Annotated[
    str | None, typer.Option(help="Cases: artifact or file (.jsonl, .csv). Default: the newest of the store.")
]
RmOption = Annotated[
    str | None,
    typer.Option(
        "--rm",
        help="Reward model: artifact, folder, or the address of a service (http://..). Default: the newest of the store.",
    ),
]
RecipeOption = Annotated[
    str,
    typer.Option(
        help="Preset of settings: default, paper (the authors' full trajectory), or full (all weights, no adapter)."
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method", help="grpo: cases and a reward; sft: stored clips (--data). Default: as the settings say."
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="With --method sft: samples, or preferences (the preferred clips); artifact or file."),
]
EvalCasesOption = Annotated[
    str | None, typer.Option("--eval-cases", help="Held-out cases, measured every `evaluation.every` updates.")
]
InitOption = Annotated[str | None, typer.Option("--init", help="Policy to start from: artifact or folder.")]
UpdatesOption = Annotated[int | None, typer.Option("--updates", min=1, help="Number of updates.")]
NprocOption = Annotated[int, typer.Option("--nproc", min=1, help="Processes on this machine (one a GPU).")]
ZeroOption = Annotated[
    int | None,
    typer.Option(
        "--zero", min=0, max=3, help="DeepSpeed ZeRO stage 1, 2 or 3. Default (and 0): plain AdamW, no DeepSpeed."
    ),
]
GpusOption = Annotated[
    int | None,
    typer.Option("--gpus", min=1, help="With --dry-run: predict an update on this many GPUs (see docs/policy.md)."),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1. Default: the GPU if there is one.")]


CLIP_FILES = ("samples.jsonl", "prefs.jsonl")
NO_RESULT = {"plan": True, "metrics": True}
"""Settings that change nothing of what is computed: not part of what makes two runs the same."""


def command(
    base: BaseOption,
    cases: CasesOption = None,
    rm: RmOption = None,
    method: MethodOption = None,
    data: DataOption = None,
    recipe: RecipeOption = "default",
    eval_cases: EvalCasesOption = None,
    init: InitOption = None,
    updates: UpdatesOption = None,
    device: DeviceOption = None,
    nproc: NprocOption = 1,
    zero: ZeroOption = None,
    gpus: GpusOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    seed: SeedOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tune a base: with GRPO so that a reward model rates its videos higher, or on clips that are good already (SFT).

    The same command after a stop or a kill goes on exactly where the last checkpoint left it; --force starts afresh.
    Under torchrun, the deepspeed launcher or SLURM the same command joins the job.
    """
    from idgrpo.bases.atthand import weights_of_entry
    from idgrpo.bases.load import resolve_entry
    from idgrpo.cli.output import finish
    from idgrpo.errors import UsageError
    from idgrpo.policy.clips import check_clips, read_clips
    from idgrpo.policy.groups import check_geometry
    from idgrpo.policy.recipes import recipe as preset
    from idgrpo.run.distributed import world_from_environment
    from idgrpo.store.store import Store

    given: dict[str, int | str | None] = {"num_updates": updates, "seed": seed, "engine.zero": zero, "method": method}
    entry = resolve_entry(base)
    is_tiny = entry.architecture == "tiny"
    settings = _settings(preset(recipe, base, tiny=is_tiny), config, sets, given)
    if settings.method != "grpo":  # a file may say so too: the preset under it is that of the method
        settings = _settings(preset(recipe, base, tiny=is_tiny, method=settings.method), config, sets, given)
    world = world_from_environment(dict(os.environ))
    shelf = Store(Path(store)) if store else Store.default()
    is_grpo = settings.method == "grpo"
    _check_method(settings, cases, data)
    inputs = {"cases": _source(shelf, "cases", cases)} if is_grpo else {"data": _data(shelf, data)}
    service = scoring_service(rm)
    if service is None and (is_grpo or settings.clips.keep == "best"):
        inputs["rm"] = _source(shelf, "rm", rm)
    if init is not None:
        inputs["init"] = _source(shelf, "policy", init)
    if eval_cases is not None:
        inputs["heldout"] = _source(shelf, "cases", eval_cases)
    _check_evaluation(settings, inputs)
    material: list[Case] | list[StoredClip]
    material = _read_cases(inputs["cases"]) if is_grpo else read_clips(_clips_file(inputs["data"]))
    num_ranks = max(nproc, world.size)
    if is_grpo:
        check_geometry(len(material), settings.group.num_cases, settings.group.size, num_ranks)
    elif settings.clips.keep == "all":
        check_clips(len(material), settings.clips.num_per_update, num_ranks)
    name = name or _plain_name(base)
    resolved = {"base": base, "recipe": recipe, "policy": settings.model_dump(mode="json", exclude=NO_RESULT)}
    if service is not None:  # the model decides the result, not the address it is served at
        resolved["served_rm"] = service.health()["model"]
    if gpus is not None and not dry_run:
        raise UsageError("--gpus only predicts; training takes its ranks from --nproc or the launcher", fix="--dry-run")
    if dry_run:
        plan = _plan(shelf, resolved, inputs, material, settings, name)
        if gpus is not None:
            _add_forecast(plan, entry, settings, gpus, _most_references(material))
        finish(**plan, artifact=None, quiet=quiet, as_json=as_json)
        return
    # Reading the weights' digest is also what says that they are missing, before anything else is done.
    resolved |= weights_of_entry(entry)
    artifact = None if force else shelf.find("policy", name, inputs=inputs, config=resolved)
    if artifact is None and nproc > 1 and world.size == 1:
        raise typer.Exit(_launch(nproc))
    if artifact is None:
        artifact = _train(shelf, name, inputs, resolved, settings, material, device, force and not resume, service)
    if artifact is not None:  # ranks other than the first have nothing to tell
        finish(**_result(artifact), artifact=artifact, quiet=quiet, as_json=as_json)


def _launch(nproc: int) -> int:
    """Run this command line in `nproc` ranks and give their exit code."""
    from idgrpo.run.distributed import launch

    return launch(nproc, sys.argv[1:])


def _settings(
    preset: "PolicyConfig", config: Path | None, sets: list[str] | None, given: dict[str, int | str | None]
) -> "PolicyConfig":
    """Lay file, --set and options over the recipe; all of them are checked together."""
    from idgrpo.policy.config import PolicyConfig
    from idgrpo.run.config import load_config

    options = [f"{key}={value}" for key, value in given.items() if value is not None]
    return load_config(PolicyConfig, config, [*(sets or []), *options], base=preset)


def _check_method(settings: "PolicyConfig", cases: str | None, data: str | None) -> None:
    """Refuse the input of the other method."""
    from idgrpo.errors import UsageError

    if settings.method == "grpo" and data is not None:
        raise UsageError("--data is what --method sft learns from; GRPO draws its own clips", fix="--method sft")
    if settings.method == "sft" and cases is not None:
        raise UsageError("--method sft learns from stored clips, not from --cases", fix="--data SAMPLES")


def _check_evaluation(settings: "PolicyConfig", inputs: dict[str, "Source"]) -> None:
    """Refuse half an order: held-out cases without a rhythm, or a rhythm without cases."""
    from idgrpo.errors import UsageError

    if settings.evaluation.every and "heldout" not in inputs:
        raise UsageError("evaluation.every is set, but there are no held-out cases", fix="--eval-cases REF")
    if "heldout" in inputs and not settings.evaluation.every:
        raise UsageError("--eval-cases needs to know how often", fix="--set evaluation.every=20")


def _source(shelf: "Store", kind: str, given: str | None) -> "Source":
    """Find an input: a file or a folder that is no artifact stays a path; nothing given means the newest of the store."""
    if given is not None:
        path = Path(given)
        if path.is_file() or (path.is_dir() and not (path / "manifest.json").is_file()):
            return path.resolve()
    return shelf.resolve(given or kind, kind=kind)


def _data(shelf: "Store", given: str | None) -> "Source":
    """Find what SFT learns from: samples (also by their bare name; nothing given: the newest) or preferences."""
    from idgrpo.errors import ArtifactError

    if given is None or (not given.startswith("preferences") and not Path(given).exists()):
        return _source(shelf, "samples", given)
    path = Path(given)
    if path.is_file() or (path.is_dir() and not (path / "manifest.json").is_file()):
        return path.resolve()
    found = shelf.resolve(given)
    if found.kind not in ("samples", "preferences"):
        raise ArtifactError(f"{given} is a {found.kind} artifact; samples or preferences are needed here")
    return found


def _path(source: "Source") -> Path:
    return source if isinstance(source, Path) else source.path


def _read_cases(source: "Source") -> list["Case"]:
    from idgrpo.errors import DataError
    from idgrpo.records.jsonl import read_cases

    path = source if isinstance(source, Path) else source.file("cases.jsonl")
    found = list(read_cases(path))
    if not found:
        raise DataError(f"no cases in {path}", fix="one line of JSON each: id, prompt, references")
    ids = [case.id for case in found]
    twice = sorted({case_id for case_id in ids if ids.count(case_id) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise DataError(
            f"{path}: case ids are there twice: {', '.join(twice[:5])}", fix="give each case an id of its own"
        )
    return found


def _clips_file(source: "Source") -> Path:
    """Give the file of samples or preferences in what `--data` names."""
    if isinstance(source, Path) and source.is_file():
        return source
    folder = source if isinstance(source, Path) else source.path
    return next((p for name in CLIP_FILES if (p := folder / name).is_file()), folder / CLIP_FILES[0])


def _most_references(material: "list[Case] | list[StoredClip]") -> int:
    return max(len(case.references) for case in _cases_of(material))


def _cases_of(material: "list[Case] | list[StoredClip]") -> "list[Case]":
    from idgrpo.policy.clips import StoredClip

    return [item.case if isinstance(item, StoredClip) else item for item in material]


def _plain_name(base: str) -> str:
    """Give a name for the artifact: that of the base, or the folder's own name for a path."""
    return Path(base).name.split("@")[0]


def _train(
    shelf: "Store",
    name: str,
    inputs: dict[str, "Source"],
    resolved: dict[str, Any],
    settings: "PolicyConfig",
    material: "list[Case] | list[StoredClip]",
    device: str | None,
    fresh: bool,
    service: "RewardClient | None",
) -> "Artifact | None":
    """Train and publish; ranks other than the first only train and give None."""
    import torch

    from idgrpo.bases.atthand import default_device
    from idgrpo.bases.load import load_base
    from idgrpo.policy.measured import evaluation_of, rewards_of
    from idgrpo.policy.train import forget_work, train
    from idgrpo.reward.score import RewardModel
    from idgrpo.run.distributed import join_world
    from idgrpo.run.folder import RunFolder

    world = join_world()
    device = device or default_device()
    if device == "cuda" and world.size > 1:
        device = f"cuda:{world.local_rank}"
    digests = {key: str(value) if isinstance(value, Path) else value.digest for key, value in inputs.items()}
    fingerprint = {"config": resolved, "inputs": digests, "material": [item.id for item in material]}
    # The folder's name holds the fingerprint: the same command finds its run again, another one starts beside it.
    mark = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:12]
    folder = shelf.run_dir(f"train-policy-{name}-{mark}")
    # Only the first rank takes the lock and publishes; it must have looked at the folder before the others use it.
    opened = RunFolder.open(folder, fingerprint=fingerprint, resume=True) if world.is_main else nullcontext()
    with opened as run:
        if fresh and run is not None:
            forget_work(run)
        world.barrier()
        run = run or RunFolder(folder)
        dtype = torch.float32 if settings.train == "full" else None  # AdamW's steps are lost in the rounding of bf16
        base = load_base(resolved["base"], device=device, dtype=dtype)
        reward = service or (RewardModel.load(_path(inputs["rm"]), device=device) if "rm" in inputs else None)
        init = _path(inputs["init"]) if "init" in inputs else None
        evaluate = None
        if "heldout" in inputs:
            held_out = _read_cases(inputs["heldout"])
            evaluate = evaluation_of(settings.evaluation, held_out, _cases_of(material), run.path)
        rewards = rewards_of(reward.score, settings.reward) if reward else None
        run_stage = partial(train, base, material, rewards, settings, run, init=init, world=world, evaluate=evaluate)
        if not world.is_main:
            run_stage()
            return None
        with shelf.publish("policy", name, inputs=inputs, config=resolved) as draft:
            draft.metrics.update(run_stage(out=draft.path))
        if not settings.checkpoint.keep_every:
            forget_work(run)
    return draft.artifact


def _plan(
    shelf: "Store",
    resolved: dict[str, Any],
    inputs: dict[str, "Source"],
    material: "list[Case] | list[StoredClip]",
    settings: "PolicyConfig",
    name: str,
) -> dict[str, Any]:
    """Say what would be read, done and written."""
    from idgrpo.policy.cost import work_of_update

    reads = {key: str(value) if isinstance(value, Path) else value.ref for key, value in inputs.items()}
    work = work_of_update(settings, _most_references(material))
    what = "cases" if settings.method == "grpo" else "clips"
    summary = [
        f"reads   {', '.join(f'{key} {value}' for key, value in reads.items())}; {len(material)} {what}; base {resolved['base']}",
        f"writes  policy/{name} in {shelf.root}",
        f"does    {settings.num_updates} updates of {work.say()}",
    ]
    document = {
        "dry_run": True,
        "would_read": reads,
        "would_write": f"policy/{name}",
        f"num_{what}": len(material),
        "samples_per_update": work.samples,
        "rollout_forwards_per_update": work.rollout_forwards,
        "replayed_steps_per_update": work.replayed_steps,
        "scored_sets_per_update": work.scored_sets,
        "config": resolved,
    }
    return {"summary": summary, "document": document}


def _add_forecast(
    plan: dict[str, Any], entry: "BaseEntry", settings: "PolicyConfig", gpus: int, num_references: int
) -> None:
    """Say what an update would take on `gpus` ranks: the stage and micro-batch worth using, seconds, memory, traffic.

    Where the samples do not divide over them, the plan is for the next number of groups that does, and says so.
    """
    from dataclasses import asdict

    from idgrpo.policy.cost import samples_per_update
    from idgrpo.policy.forecast import forecast, on_gpus

    asked, settings = settings.group, on_gpus(settings, gpus)
    group, num_samples = settings.group, samples_per_update(settings)
    found, load, machine = forecast(entry, settings, gpus, num_references)
    where = "fits" if found.fits else "DOES NOT FIT"
    if group.num_cases != asked.num_cases:
        plan["summary"].append(
            f"plan    for group.num_cases={group.num_cases}: {asked.num_cases} groups of {asked.size} samples do not divide over "
            f"{gpus} GPUs ({asked.num_cases * asked.size} % {gpus} = {asked.num_cases * asked.size % gpus}), "
            f"and a run with them is refused"
        )
    plan["summary"] += [
        f"on {gpus} GPUs of {machine.memory_gib:.0f} GiB at {machine.tflops:.0f} TFLOP/s and {machine.link_gb_s:.0f} GB/s "
        f"(plan.* settings): {num_samples // gpus} samples a GPU, about {found.seconds:.3g} s an update ({found.sync_s:.2g} s of it between ranks, "
        f"{found.traffic_gib:.2g} GiB a rank)",
        f"memory  about {found.memory_gib:.1f} GiB a GPU, {where}, with --zero {found.zero} and "
        f"loss.micro_batch={found.micro_batch}; {load.sample_tflop:.4g} TFLOP a sample",
    ]
    plan["document"]["forecast"] = asdict(found) | {
        "seconds": found.seconds,
        "sample_tflop": load.sample_tflop,
        "num_cases": group.num_cases,
        "samples_per_update": num_samples,
    }


def _result(artifact: "Artifact") -> dict[str, Any]:
    metrics = dict(artifact.manifest.metrics)
    base = artifact.manifest.config["base"]
    if "reward_first" in metrics:
        course = f"training reward {float(metrics['reward_first']):.3f} -> {float(metrics['reward_last']):.3f}"
    else:
        course = f"flow-matching error {float(metrics['matching_first']):.4f} -> {float(metrics['matching_last']):.4f}"
    summary = [
        f"policy {artifact.ref}: {base} after {int(metrics['updates'])} updates",
        f"{course} (not a measure of identity: compare with `idgrpo eval`)",
        f"adapter: {artifact.path}",
    ]
    document = {
        "artifact": artifact.ref,
        "digest": artifact.digest,
        "path": str(artifact.path),
        "base": base,
        "metrics": metrics,
    }
    return {"summary": summary, "document": document}

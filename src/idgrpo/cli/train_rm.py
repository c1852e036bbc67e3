"""`idgrpo train-rm`: preferences -> reward model."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from idgrpo.records.jsonl import RejectedLine
    from idgrpo.records.preference import Preference
    from idgrpo.reward.config import RewardModelConfig
    from idgrpo.store.artifact import Artifact
    from idgrpo.store.store import Store

DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data", help="Preferences: a prefs.jsonl, or an artifact such as preferences@v3; repeat to join several."
    ),
]
VlmOption = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint to build on: directory, hub id or tiny-vlm. Default: tiny-vlm for clips up to 64 px, else 3B."
    ),
]
SkipOption = Annotated[
    bool,
    typer.Option(
        "--skip-invalid", help="Put invalid lines aside (<file>.rejects.jsonl) and go on, instead of stopping."
    ),
]

NprocOption = Annotated[
    int, typer.Option("--nproc", min=1, help="Processes on this machine (one a GPU); for full training.")
]
ZeroOption = Annotated[
    int | None,
    typer.Option("--zero", min=0, max=2, help="DeepSpeed ZeRO stage of full training. Default: no DeepSpeed."),
]


def command(
    data: DataOption = None,
    vlm: VlmOption = None,
    skip_invalid: SkipOption = False,
    nproc: NprocOption = 1,
    zero: ZeroOption = None,
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
    """Train a reward model on preferences and print how often it agrees with held-out ones."""
    # transformers imports DeepSpeed where it is installed, which otherwise announces its guess on stdout.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if Path("/dev/nvidiactl").exists() else "cpu")
    from idgrpo.cli.output import finish
    from idgrpo.reward.checkpoint import checkpoint_digest, find_vlm
    from idgrpo.reward.resolve import resolve, setting_lines
    from idgrpo.reward.train import resolve_vlm
    from idgrpo.run.distributed import launch, world_from_environment
    from idgrpo.store.store import Store

    settings = _settings(config, sets, {"vlm": vlm, "seed": seed, "full.zero": zero})
    shelf = Store(Path(store)) if store else Store.default()
    sources = _sources(shelf, data)
    preferences, num_rejected = _read(shelf, sources, skip_invalid)
    checkpoint = resolve_vlm(preferences, settings)
    settings = settings.model_copy(update={"vlm": checkpoint})
    folder = find_vlm(checkpoint)
    resolved = {**settings.model_dump(mode="json"), "vlm_digest": checkpoint_digest(folder)}
    name = name or "rm"
    inputs = {f"preferences{index or ''}": source for index, source in enumerate(sources)}
    if dry_run:
        shown = resolve(settings, folder)
        finish(
            **_plan(shown, folder, resolved["vlm_digest"], sources, preferences, shelf, name),
            artifact=None,
            quiet=quiet,
            as_json=as_json,
        )
        return
    artifact = None if force else shelf.find("rm", name, inputs=inputs, config=resolved)
    world = world_from_environment(dict(os.environ))
    if artifact is None and nproc > 1 and world.size == 1:
        raise typer.Exit(launch(nproc, sys.argv[1:]))
    if artifact is None:
        if world.is_main and not quiet:
            for line in setting_lines(resolve(settings, folder)):
                typer.echo(line, err=True)
        fresh = force and not resume
        artifact = _train(shelf, name, inputs, resolved, settings, preferences, fresh, num_rejected)
    if artifact is not None:  # ranks other than the first have nothing to tell
        finish(**_result(artifact), artifact=artifact, quiet=quiet, as_json=as_json)


def _settings(config: Path | None, sets: list[str] | None, given: dict[str, str | int | None]) -> "RewardModelConfig":
    from idgrpo.reward.config import RewardModelConfig
    from idgrpo.run.config import load_config

    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    return load_config(RewardModelConfig, config, [*(sets or []), *options])


def _sources(shelf, data: list[str] | None) -> list["Artifact | Path"]:
    if not data:
        return [shelf.resolve("preferences", kind="preferences")]
    return [Path(item) if Path(item).is_file() else shelf.resolve(item, kind="preferences") for item in data]


def _read(shelf: "Store", sources: list["Artifact | Path"], skip_invalid: bool) -> tuple[list["Preference"], int]:
    """Read every pair with its media checked; what is wrong is named by file and line, or put aside and counted."""
    from idgrpo.errors import DataError
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.preference import Preference
    from idgrpo.reward.check import DataCheck

    found: list[Preference] = []
    num_rejected = 0
    check = DataCheck()
    for source in sources:
        path = source if isinstance(source, Path) else source.file("prefs.jsonl")
        rejected: list[RejectedLine] = []
        found += read_records(
            path,
            Preference,
            unique="pair_id",
            skip_invalid=rejected.append if skip_invalid else None,
            check=check.of(path),
        )
        num_rejected += len(rejected)
        if rejected:
            _put_aside(rejected, _aside(shelf, source))
    if not found:
        raise DataError(f"no preferences in {', '.join(str(s) for s in sources)}")
    return found, num_rejected


def _aside(shelf: "Store", source: "Artifact | Path") -> Path:
    # Artifacts are immutable: what is refused of one goes to the store's runs.
    if isinstance(source, Path):
        return source.with_suffix(".rejects.jsonl")
    return shelf.run_dir("rejects") / f"{source.ref.replace('/', '-')}.rejects.jsonl"


def _put_aside(rejected: list["RejectedLine"], aside: Path) -> None:
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text("".join(line.text + "\n" for line in rejected), encoding="utf-8")
    for line in rejected[:20]:
        typer.echo(f"{line.path}:{line.line}: {line.reason}", err=True)
    typer.echo(f"{len(rejected)} invalid lines of {rejected[0].path} are in {aside}", err=True)


def _train(shelf, name, inputs, resolved, settings, preferences, fresh, num_rejected) -> "Artifact | None":
    from idgrpo.reward.table import accuracy_lines, draw_card, flat_metrics
    from idgrpo.reward.train import forget_work, train
    from idgrpo.run.distributed import world_from_environment
    from idgrpo.run.folder import RunFolder

    digests = {
        key: hashlib.sha256(v.read_bytes()).hexdigest() if isinstance(v, Path) else v.digest
        for key, v in inputs.items()
    }
    fingerprint = {"config": resolved, "inputs": digests, "num_pairs": len(preferences)}
    # The run's folder carries its fingerprint, so that the same command goes on and another one starts beside it.
    mark = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:12]
    folder = shelf.run_dir(f"train-rm-{name}-{mark}")
    if not world_from_environment(dict(os.environ)).is_main:  # the first rank holds the lock and publishes
        train(preferences, settings, RunFolder(folder), folder)
        return None
    with RunFolder.open(folder, fingerprint=fingerprint, resume=True) as run:
        if fresh:
            forget_work(run)
        with shelf.publish("rm", name, inputs=inputs, config=resolved) as draft:
            cache = shelf.root / "cache" / "features"
            card = train(preferences, settings, run, draft.path, cache=cache, num_rejected=num_rejected)
            draw_card(card, draft.path / "card.png")
            (draft.path / "accuracy.txt").write_text("\n".join(accuracy_lines(card)) + "\n", encoding="utf-8")
            draft.metrics.update(flat_metrics(card))
        forget_work(run)
    return draft.artifact


def _result(artifact: "Artifact") -> dict:
    from idgrpo.reward.model import load_card
    from idgrpo.reward.table import accuracy_lines, measured_on

    card = load_card(artifact.path)
    part = measured_on(card)
    rejected = f", {card['num_rejected']} invalid lines left out" if "num_rejected" in card else ""
    copies = f", {card['num_copies']} clips against their photos among them" if card["num_copies"] else ""
    pairs = f"{card['num_training_pairs']} pairs{copies}{rejected}"
    summary = [f"reward model {artifact.ref} ({card['mode']} on {card['vlm']}, {pairs})"]
    return {
        "summary": summary + accuracy_lines(card),
        "document": {
            "artifact": artifact.ref,
            "digest": artifact.digest,
            "path": str(artifact.path),
            "rm_accuracy_decided": card[part]["accuracy_decided"],
            "rm_accuracy_with_ties": card[part]["accuracy_with_ties"],
            "rm_measured_on": part,
            "card": card,
        },
    }


def _plan(
    settings: "RewardModelConfig", folder: Path, vlm_digest: str, sources: list, preferences: list, shelf, name: str
) -> dict:
    from idgrpo.reward.resolve import setting_lines

    resolved = {**settings.model_dump(mode="json"), "vlm_digest": vlm_digest}
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    reads = [str(s) if isinstance(s, Path) else s.ref for s in sources]
    would_read = [*reads, resolved["vlm"]]
    document = {
        "would_read": would_read,
        "would_write": f"rm/{name}",
        "num_pairs": len(preferences),
        "disk_bytes": weights,
        "memory_bytes": weights * 6,
        "config": resolved,
    }
    summary = [
        f"reads   {', '.join(would_read)}: {len(preferences)} pairs",
        f"writes  rm/{name} in {shelf.root}",
        f"needs   about {weights / 2**20:.0f} MiB on disk and {weights * 6 / 2**20:.0f} MiB of memory",
        *setting_lines(settings),
        *(f"{key} = {value}" for key, value in resolved.items()),
    ]
    return {"summary": summary, "document": document}

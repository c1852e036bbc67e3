"""`idgrpo distort`: clean clips -> worse clips with a known order -> preferences."""

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
    SeedOption,
    SetOption,
    StoreOption,
)

if TYPE_CHECKING:
    from idgrpo.distort.config import DistortConfig
    from idgrpo.records.sample import Sample
    from idgrpo.store.artifact import Artifact
    from idgrpo.store.store import Store

DataOption = Annotated[
    str | None,
    typer.Option(
        help="Clips: samples artifact, samples.jsonl, or a folder of videos. Default: the newest of the store."
    ),
]
PerVideoOption = Annotated[int | None, typer.Option("--per-video", min=1, help="Pairs made from each clip.")]
MixOption = Annotated[
    str | None, typer.Option(help="Distortions and weights: swap_late=2,replace,blend=0.5. Default: a mix of all.")
]
FinderOption = Annotated[str | None, typer.Option(help="Who finds people in clips of unknown content: facenet, tiny.")]
WeightsOption = Annotated[
    Path | None, typer.Option("--finder-weights", help="Face embedding weights. Default: facenet-pytorch's cache.")
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="Processes. The result is the same for any number.")
]
LosslessOption = Annotated[
    bool | None, typer.Option("--lossless/--h264", help="Lossless video. Default: only for clips under 128 px.")
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Generator for `renoise`: noise a clip, denoise it with one reference replaced; a name or a path.",
    ),
]
SampleSetOption = Annotated[
    list[str] | None, typer.Option("--sample-set", help="Setting of the generator: sampler.num_steps=8; repeat.")
]
DeviceOption = Annotated[str | None, typer.Option(help="Where the generator works: cpu, cuda, cuda:1.")]
SheetsOption = Annotated[bool, typer.Option("--sheets/--no-sheets", help="Draw a contact sheet of every distortion.")]


def command(
    data: DataOption = None,
    per_video: PerVideoOption = None,
    mix: MixOption = None,
    finder: FinderOption = None,
    finder_weights: WeightsOption = None,
    base: BaseOption = None,
    sample_sets: SampleSetOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = 1,
    lossless: LosslessOption = None,
    sheets: SheetsOption = True,
    seed: SeedOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Damage who is who in clean clips, in known amounts, and write the preferences.

    Run the same command again after an interruption: finished clips are kept.
    """
    from idgrpo.cli.distort_generator import generator_settings, with_renoise
    from idgrpo.cli.output import finish
    from idgrpo.distort.inputs import read_samples
    from idgrpo.store.store import Store

    exactly = None if lossless is None else ("yes" if lossless else "no")
    given = {"per_video": per_video, "seed": seed, "people.finder": finder, "lossless": exactly}
    settings = with_renoise(_settings(config, sets, given, mix), base)
    generator, regenerated = generator_settings(base, device, sample_sets) if base else (None, None)
    shelf = Store(Path(store)) if store else Store.default()
    source = _source(shelf, data)
    name = name or "distorted"
    samples = read_samples(source if isinstance(source, Path) else source.path)
    if dry_run:
        finish(**_plan(settings, source, name, samples), artifact=None, quiet=quiet, as_json=as_json)
        return
    inputs = {"samples": source}
    # Paths do not say what is in a file: a clip that was skipped as broken and mended since makes another result.
    listing = [[s.model_dump(mode="json") for s in samples], _contents(samples)]
    resolved = settings.model_dump(mode="json") | {"data": _digest(listing)}
    resolved |= {"generator": regenerated} if regenerated else {}
    artifact = None if force else shelf.find("preferences", name, inputs=inputs, config=resolved)
    if artifact is None:
        options = {"finder_weights": finder_weights, "workers": workers, "sheets": sheets, "generator": generator}
        artifact = _distort(shelf, name, inputs, resolved, settings, samples, options)
    result = _result(artifact)
    for reason, count in result["document"]["clips_skipped"].items():
        typer.echo(f"skipped {count} of {len(samples)} clips: {reason}", err=True)
    finish(**result, artifact=artifact, quiet=quiet, as_json=as_json)


def _settings(config: Path | None, sets: list[str] | None, given: dict[str, Any], mix: str | None) -> "DistortConfig":
    """Join file, --set and options; all of them are checked together."""
    import json

    from idgrpo.distort.config import DistortConfig, parse_mix
    from idgrpo.run.config import load_config

    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    if mix is not None:
        options += [f"mix.{key}={weight}" for key, weight in parse_mix(mix).items()]
    return load_config(DistortConfig, config, [*(sets or []), *options])


def _source(shelf: "Store", data: str | None) -> "Artifact | Path":
    """Find the clips: a file, a folder that is no artifact, an artifact, or the newest samples."""
    from idgrpo.errors import DataError

    if data is None:
        return shelf.resolve("samples", kind="samples")
    path = Path(data)
    if path.is_file() or (path.is_dir() and not (path / "manifest.json").is_file()):
        return path.resolve()
    if path.suffix == ".jsonl":
        raise DataError(f"{data}: no such file", fix="give samples.jsonl, a samples artifact, or a folder of videos")
    return shelf.resolve(data, kind="samples")


def _digest(value: Any) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _contents(samples: "list[Sample]") -> dict[str, str]:
    """Hash every clip and first portrait once, empty for what is not there: path -> digest."""
    from idgrpo.distort.files import file_digest

    paths = {path for s in samples for path in (s.video, *(r.images[0] for r in s.references))}
    return {path: file_digest(Path(path)) if Path(path).is_file() else "" for path in sorted(paths)}


def _distort(
    shelf: "Store",
    name: str,
    inputs: dict[str, Any],
    resolved: dict[str, Any],
    settings: "DistortConfig",
    samples: "list[Sample]",
    options: dict[str, Any],
) -> "Artifact":
    """Work in a run folder that survives a kill, then publish."""
    import shutil
    from functools import partial

    from idgrpo.cli.distort_generator import regenerator
    from idgrpo.distort.job import exact_painter
    from idgrpo.distort.publish import copy_result
    from idgrpo.distort.stage import distort
    from idgrpo.people.load import load_finder
    from idgrpo.run.folder import RunFolder

    finder = None
    if any(exact_painter(sample) is None for sample in samples):
        weights = {"weights": options["finder_weights"]} if options["finder_weights"] else {}
        finder = partial(load_finder, settings.people.finder, **weights)
    digests = {key: str(value) if isinstance(value, Path) else value.digest for key, value in inputs.items()}
    fingerprint = {"config": resolved, "inputs": digests}
    # The folder's name holds the fingerprint: the same command finds its run again, another one never collides with it.
    folder = shelf.run_dir(f"distort-{name}-{_digest(fingerprint)[:12]}")
    with RunFolder.open(folder, fingerprint=fingerprint, resume=True) as run:
        work = run.path / "work"
        regenerate = regenerator(options["generator"]) if options["generator"] else None
        summary = distort(samples, settings, work, finder=finder, regenerate=regenerate, workers=options["workers"])
        if options["sheets"]:
            from idgrpo.distort.sheets import draw_sheets

            draw_sheets(work)
        with shelf.publish("preferences", name, inputs=inputs, config=resolved) as draft:
            copy_result(work, draft.path)
            draft.metrics.update(summary.document())
        shutil.rmtree(work)
    return draft.artifact


def _plan(settings: "DistortConfig", source: "Artifact | Path", name: str, samples: "list[Sample]") -> dict[str, Any]:
    """Say what would be done."""
    num_pairs = settings.per_video * len(samples)
    read = str(source) if isinstance(source, Path) else source.ref
    summary = [
        f"would read   {read}: {len(samples)} clips",
        f"would write  preferences/{name}: up to {num_pairs} pairs",
        "mix          " + ", ".join(f"{key}={weight:g}" for key, weight in settings.weights().items()),
    ]
    document = {
        "dry_run": True,
        "reads": read,
        "clips": len(samples),
        "pairs_at_most": num_pairs,
        "config": settings.model_dump(mode="json"),
    }
    return {"summary": summary, "document": document}


def _result(artifact: "Artifact") -> dict[str, Any]:
    """Show what is in the artifact: also when it was there before."""
    import json

    from idgrpo.distort.publish import SUMMARY_FILE
    from idgrpo.distort.summary import lines_of

    document = json.loads(artifact.file(SUMMARY_FILE).read_text(encoding="utf-8"))
    return {"summary": lines_of(document), "document": {"artifact": artifact.ref, **document}}

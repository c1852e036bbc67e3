"""`idgrpo distort`: clean clips -> worse clips with a known order -> preferences."""

from pathlib import Path
from typing import Annotated

import typer

from idgrpo.cli.options import (
    ConfigOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    NameOption,
    NprocOption,
    QuietOption,
    SeedOption,
    SetOption,
    ShareOption,
    StoreOption,
    open_store,
    without_none,
)
from idgrpo.cli.output import carry_out
from idgrpo.errors import UsageError
from idgrpo.stages import Artifact, Plan
from idgrpo.stages.distort import distort, parse_mix, result
from idgrpo.stages.settings import Words

DataOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Clips: samples artifact, samples.jsonl, or a folder of videos; repeat to join several. Default: the newest "
        "samples of the store that were made without a tuned policy."
    ),
]
PerVideoOption = Annotated[int | None, typer.Option("--per-video", min=1, help="Pairs made from each clip.")]
MixOption = Annotated[
    str | None, typer.Option(help="Distortions and weights: swap_late=2,replace,blend=0.5. Default: a mix of all.")
]
FinderOption = Annotated[
    str | None, typer.Option(help="Who finds people in clips of unknown content: facenet, arcface, body, tiny.")
]
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
    nproc: NprocOption = 1,
    share: ShareOption = False,
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
    exactly = None if lossless is None else ("yes" if lossless else "no")
    options = without_none(per_video=per_video, seed=seed, people__finder=finder, lossless=exactly)
    options |= {f"mix.{key}": weight for key, weight in parse_mix(mix or "").items()}
    if workers > 1 and nproc > 1:
        raise UsageError("--workers and --nproc are two ways to the same end", fix="give one of them")
    work = distort.prepare(
        data, settings=Words(config, sets, options), base=base, finder_weights=finder_weights, workers=workers,
        sampling=Words(None, sample_sets, without_none(device=device)), sheets=sheets, name=name, store=open_store(store), force=force,
        share=share,
    )  # fmt: skip
    carry_out(work, _result, dry_run=dry_run, quiet=quiet, as_json=as_json, nproc=nproc)


def _result(artifact: Artifact) -> Plan:
    told = result(artifact)
    for reason, count in told.document["clips_skipped"].items():
        typer.echo(f"skipped {count} of {told.document['clips']} clips: {reason}", err=True)
    return told

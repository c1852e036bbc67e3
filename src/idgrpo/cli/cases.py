"""`idgrpo cases`: photos of people and prompts -> cases; or fresh cases of the embedded world; or a look at the photos."""

from pathlib import Path
from typing import Annotated

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
    open_store,
    without_none,
)
from idgrpo.cli.output import carry_out, finish
from idgrpo.errors import UsageError
from idgrpo.stages.cases import NUM_CASES, cases, result
from idgrpo.stages.check_cases import check_cases
from idgrpo.stages.settings import Words

GivenArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[FILE]",
        help="Cases: .jsonl, .csv, or a folder with one sub-folder of photos a person. Default: the embedded world.",
    ),
]
NumOption = Annotated[int, typer.Option("--num", min=1, help="Of the embedded world: how many cases.")]
SplitOption = Annotated[
    str, typer.Option(help="Of the embedded world: train takes people that models may have seen, other names new ones.")
]
PeopleOption = Annotated[int, typer.Option("--people", min=1, max=4, help="Of the embedded world: people in a case.")]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check", help="Show what the finder sees in each photo, and publish nothing. Default: the newest cases."
    ),
]
SheetOption = Annotated[Path, typer.Option("--sheet", help="Of --check: where the contact sheet goes, a PNG.")]
FinderOption = Annotated[
    str | None,
    typer.Option(
        help="Of --check: facenet, arcface, tiny or package.module:Class. Default: tiny for photos up to 64 px, else facenet."
    ),
]
WeightsOption = Annotated[
    str | None, typer.Option("--finder-weights", help="Of --check: file with the finder's weights.")
]
SHEET = Path("cases-check.png")


def command(
    given: GivenArgument = None,
    num: NumOption = NUM_CASES,
    split: SplitOption = "train",
    people: PeopleOption = 2,
    seed: SeedOption = None,
    check: CheckOption = False,
    sheet: SheetOption = SHEET,
    finder: FinderOption = None,
    finder_weights: WeightsOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> int:
    """Publish cases: who should appear in a video, and what they do. Photos are copied into the artifact.

    With --check the exit code is 1 when a photo is no good reference.
    """
    if check:
        settings = Words(config, sets, without_none(finder=finder, options__weights=finder_weights))
        told = check_cases(given, sheet=sheet, settings=settings, store=open_store(store))
        finish(summary=told.summary, document=told.document, artifact=None, quiet=quiet, as_json=as_json)
        return told.document["exit_code"]
    if finder or finder_weights or config or sets or sheet != SHEET:
        raise UsageError("--finder, --finder-weights, --config, --set and --sheet are of --check", fix="add --check")
    work = cases.prepare(
        given, num=num, seed=seed or 0, split=split, num_people=people, name=name, store=open_store(store), force=force
    )
    carry_out(work, result, dry_run=dry_run, quiet=quiet, as_json=as_json)
    return 0

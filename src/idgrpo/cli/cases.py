"""`idgrpo cases`: photos of people and prompts -> cases; or fresh cases of the embedded world."""

from typing import Annotated

import typer

from idgrpo.cli.options import (
    DryRunOption,
    ForceOption,
    JsonOption,
    NameOption,
    QuietOption,
    SeedOption,
    StoreOption,
    open_store,
)
from idgrpo.cli.output import carry_out
from idgrpo.stages.cases import NUM_CASES, cases, result

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


def command(
    given: GivenArgument = None,
    num: NumOption = NUM_CASES,
    split: SplitOption = "train",
    people: PeopleOption = 2,
    seed: SeedOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Publish cases: who should appear in a video, and what they do. Photos are copied into the artifact."""
    work = cases.prepare(
        given, num=num, seed=seed or 0, split=split, num_people=people, name=name, store=open_store(store), force=force
    )
    carry_out(work, result, dry_run=dry_run, quiet=quiet, as_json=as_json)

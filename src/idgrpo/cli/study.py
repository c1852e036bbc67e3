"""`idgrpo study`: a grid of stage settings x seeds -> one table with intervals."""

from pathlib import Path
from typing import Annotated

import typer

from idgrpo.cli.options import DryRunOption, ForceOption, JsonOption, NameOption, QuietOption, StoreOption, open_store
from idgrpo.cli.output import finish

FileArgument = Annotated[Path, typer.Argument(help="Study file (TOML), such as those in examples/studies/.")]
BaseOption = Annotated[
    str | None, typer.Option("--base", help="Tune this base instead of the file's; a name or a path.")
]
NprocOption = Annotated[
    int, typer.Option("--nproc", min=1, help="Cells worked on at once, a process of one thread each.")
]


def command(
    file: FileArgument,
    base: BaseOption = None,
    nproc: NprocOption = 1,
    store: StoreOption = None,
    name: NameOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run every cell of a grid of stage settings with every seed, and write one table: mean gains, intervals, compute.

    Steps that are done are found again, so a stopped or killed study goes on where it was.
    """
    from idgrpo.study.run import name_of, plan, read_study, result, run_study

    study, place, called = read_study(file, base), open_store(store), name or name_of(file)
    if dry_run:
        told = plan(study, called, place)
        finish(summary=told.summary, document=told.document, artifact=None, quiet=quiet, as_json=as_json)
        return
    artifact = run_study(study, called, store=place, nproc=nproc, force=force)
    told = result(artifact)
    finish(summary=told.summary, document=told.document, artifact=artifact, quiet=quiet, as_json=as_json)

"""Options that several commands share."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from idgrpo.stages import Store
from idgrpo.stages.work import launch_ranks as stages_launch

StoreOption = Annotated[
    str | None, typer.Option("--store", help="Folder of artifacts and runs. Default: $IDGRPO_STORE or ./idgrpo-store.")
]
NameOption = Annotated[str | None, typer.Option("--name", help="Name of the artifact.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="One setting, such as a.b=value; may be repeated.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be read, done and written, and stop.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print the artifact's reference only.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, also on failure.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Make it anew even if the same artifact exists.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of all random draws.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1. Default: the GPU if there is one.")
]

NprocOption = Annotated[
    int,
    typer.Option(
        "--nproc",
        min=1,
        help="Processes on this machine, one a GPU; the result is that of one. torchrun and srun join by themselves.",
    ),
]
ShareOption = Annotated[
    bool,
    typer.Option(
        "--share", help="Work together with other jobs that run this command on this store, such as a SLURM array."
    ),
]


def open_store(path: str | None) -> Store:
    """Open the store of `--store`, of $IDGRPO_STORE, or ./idgrpo-store."""
    return Store(Path(path)) if path else Store.default()


def without_none(**given: Any) -> dict[str, Any]:
    """Give what was said on the command line: dotted keys, `__` standing for the dot."""
    return {key.replace("__", "."): value for key, value in given.items() if value is not None}


def launch_ranks(num: int) -> None:
    """Where several processes are asked for and we are not one of them: run this command line in them, and exit as they do."""
    code = stages_launch(num, sys.argv[1:])
    if code is not None:
        raise typer.Exit(code)

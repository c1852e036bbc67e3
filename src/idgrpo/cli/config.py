"""`idgrpo config`: the settings of a stage: what they are, and whether a file is right."""

from pathlib import Path
from typing import Annotated

import typer

from idgrpo.cli.options import ConfigOption, JsonOption, SetOption
from idgrpo.cli.output import write_json, write_lines
from idgrpo.stages.settings import STAGES, Words, settings_of, to_toml

command = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Show and check the configuration of a stage.",
    pretty_exceptions_enable=False,
)

StageArgument = Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}.")]


@command.command()
def show(
    stage: StageArgument, config: ConfigOption = None, sets: SetOption = None, as_json: JsonOption = False
) -> None:
    """Print the settings of a stage as TOML, defaults included; the output is a file that --config takes."""
    settings = settings_of(stage, Words(config, sets))
    if as_json:
        write_json(settings.model_dump(mode="json"))
    else:
        write_lines(to_toml(settings).splitlines())


@command.command()
def check(
    stage: StageArgument, file: Annotated[Path, typer.Argument(help="TOML file.")], as_json: JsonOption = False
) -> None:
    """Check a file: all problems at once, each with its key; exit 2 when there are any."""
    settings_of(stage, Words(file))
    if as_json:
        write_json({"file": str(file), "stage": stage, "ok": True})
    else:
        write_lines([f"{file} is a valid configuration of {stage}"])

"""`idgrpo config`: the settings of a stage: what they are, and whether a file is right."""

from pathlib import Path
from typing import Annotated

import typer

from idgrpo.cli.options import ConfigOption, JsonOption, SetOption
from idgrpo.cli.output import write_json, write_lines
from idgrpo.stages.settings import STAGES, Words, settings_of, shown_settings

command = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Show and check the configuration of a stage.",
    pretty_exceptions_enable=False,
)

StageArgument = Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}.")]


BaseOption = Annotated[
    str | None,
    typer.Option("--base", help="Of train-policy and sample: show what this base fills in; a name or a path."),
]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="Of train-policy, with --base: default, unguided, paper or full. Default: default."),
]


@command.command()
def show(
    stage: StageArgument,
    base: BaseOption = None,
    recipe: RecipeOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the settings of a stage as TOML, each with its description.

    The output is a file that changes nothing when --config takes it. Without --base the settings of train-policy are
    commented out, because the recipe of the base decides them.
    """
    shown = shown_settings(stage, Words(config, sets), base=base, recipe=recipe)
    if as_json:
        write_json(shown.config.model_dump(mode="json"))
    else:
        write_lines(shown.toml().splitlines())


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

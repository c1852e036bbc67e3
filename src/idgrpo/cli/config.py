"""`idgrpo config`: the settings of a stage: what they are, and whether a file is right."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from idgrpo.cli.options import ConfigOption, JsonOption, SetOption

if TYPE_CHECKING:
    from idgrpo.run.config import Config

command = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Show and check the configuration of a stage.",
    pretty_exceptions_enable=False,
)

STAGES = {
    "annotate": "idgrpo.annotate.config:AnnotateConfig",
    "distort": "idgrpo.distort.config:DistortConfig",
    "train-rm": "idgrpo.reward.config:RewardModelConfig",
    "train-policy": "idgrpo.policy.config:PolicyConfig",
    "sample": "idgrpo.bases.config:SampleConfig",
    "eval": "idgrpo.evaluate.config:EvaluateConfig",
}
StageArgument = Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}.")]


def config_class(stage: str) -> "type[Config]":
    """Import the configuration class of a stage; UsageError for an unknown one."""
    from idgrpo.errors import UsageError

    if stage not in STAGES:
        raise UsageError(f"there is no stage '{stage}' with a configuration", fix=f"stages: {', '.join(STAGES)}")
    module, _, name = STAGES[stage].partition(":")
    return getattr(import_module(module), name)


@command.command()
def show(
    stage: StageArgument, config: ConfigOption = None, sets: SetOption = None, as_json: JsonOption = False
) -> None:
    """Print the settings of a stage as TOML, defaults included; the output is a file that --config takes."""
    from idgrpo.cli.output import write_json, write_lines
    from idgrpo.run.config import load_config, to_toml

    settings = load_config(config_class(stage), config, sets)
    if as_json:
        write_json(settings.model_dump(mode="json"))
    else:
        write_lines(to_toml(settings).splitlines())


@command.command()
def check(
    stage: StageArgument, file: Annotated[Path, typer.Argument(help="TOML file.")], as_json: JsonOption = False
) -> None:
    """Check a file: all problems at once, each with its key; exit 2 when there are any."""
    from idgrpo.cli.output import write_json, write_lines
    from idgrpo.run.config import load_config

    load_config(config_class(stage), file)
    if as_json:
        write_json({"file": str(file), "stage": stage, "ok": True})
    else:
        write_lines([f"{file} is a valid configuration of {stage}"])

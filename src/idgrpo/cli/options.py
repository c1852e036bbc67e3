"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from idgrpo.reward.client import RewardClient

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


def scoring_service(reward: str | None) -> "RewardClient | None":
    """Give the client of a service where a reward model is named by an address; None for artifacts and folders."""
    if reward is None or not reward.startswith(("http://", "https://")):
        return None
    from idgrpo.reward.client import RewardClient

    return RewardClient(reward)

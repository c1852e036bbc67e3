"""`idgrpo plugins`: what installed packages bring, and what of it cannot be imported."""

from idgrpo.cli.options import JsonOption
from idgrpo.cli.output import finish
from idgrpo.stages.plugins import list_plugins


def command(as_json: JsonOption = False) -> None:
    """List the parts that installed packages bring (entry points), and those that failed to import, with the reason."""
    told = list_plugins()
    finish(summary=told.summary, document=told.document, artifact=None, quiet=False, as_json=as_json)

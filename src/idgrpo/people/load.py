"""Make a finder from its name in the registry."""

from importlib import import_module
from typing import Any

from idgrpo.errors import MachineError, UsageError
from idgrpo.people import FINDERS
from idgrpo.people.contract import Finder


def load_finder(name: str, **options: Any) -> Finder:
    """Make the finder called `name`; a dotted import string `package.module:Class` names one from outside.

    Raises UsageError for an unknown name and MachineError when its code cannot be imported here.
    """
    target = FINDERS.get(name, name)
    if ":" not in target:
        raise UsageError(f"unknown finder {name!r} (known: {', '.join(sorted(FINDERS))})")
    module_name, _, attribute = target.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise MachineError(
            f"finder {name!r} needs a package that is not here: {error}", fix="install it, or choose another finder"
        ) from error
    return getattr(module, attribute)(**options)

"""Make a finder from its name in the registry."""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from idgrpo.errors import MachineError, UsageError
from idgrpo.people import FINDERS
from idgrpo.people.contract import Finder, file_content


def load_finder(name: str, **options: Any) -> Finder:
    """Make the finder called `name`; a dotted import string `package.module:Class` names one from outside.

    `options` are the finder's own settings. Raises UsageError for an unknown name or option and MachineError when its code cannot be
    imported here.
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
    made = getattr(module, attribute, None)
    if not callable(made):
        raise UsageError(f"finder {name!r}: {module_name} has no class {attribute!r}")
    known = _options_of(made)
    for option in options:
        if known is not None and option not in known:
            near = get_close_matches(option, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"finder {name!r} has no option {option!r}{hint} (known: {', '.join(sorted(known))})")
    return made(**options)


def files_of(options: Mapping[str, Any]) -> dict[str, str]:
    """Give the content of the files that options of a finder name, such as its weights: option -> sha256."""
    files = {name: Path(value) for name, value in options.items() if isinstance(value, str | Path)}
    return {name: file_content(path).hex() for name, path in files.items() if path.is_file()}


def _options_of(made: Any) -> set[str] | None:
    """Name what a class can be made with, its bases' options too where it passes them on; None where that is not known."""
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):
        return None
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        bases = [base for base in getattr(made, "__bases__", ()) if base is not object]
        further = [_options_of(base) for base in bases]
        return named.union(*(names for names in further if names)) if bases and None not in further else None
    return named

"""Results that belong to a file, remembered in this process for as long as the file stays as it is."""

import os
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

Path_ = TypeVar("Path_", bound=str | os.PathLike[str])
P = ParamSpec("P")
R = TypeVar("R")


def remembered(
    maxsize: int,
) -> Callable[[Callable[Concatenate[Path_, P], R]], Callable[Concatenate[Path_, P], R]]:
    """Remember what a function of a path (and other hashable arguments) gave, up to `maxsize` results.

    A file with another size, time of change or inode is another file: stages run many times in one process, and a clip may
    be replaced in between. Errors are not remembered.
    """

    def decorate(function: Callable[Concatenate[Path_, P], R]) -> Callable[Concatenate[Path_, P], R]:
        known: Any = lru_cache(maxsize=maxsize)(lambda state, path, *given, **named: function(path, *given, **named))

        @wraps(function)
        def call(path: Path_, *given: P.args, **named: P.kwargs) -> R:
            return known(_state(path), path, *given, **named)

        return call

    return decorate


def _state(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino

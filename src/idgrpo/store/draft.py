"""Drafts: artifacts being built, in hidden folders beside their place, each with a lock that its builder holds."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from idgrpo.store.artifact import Artifact

PREFIX = ".draft-"
LOCK = ".lock"


@dataclass
class Draft:
    """An artifact being built: write into `path`, add to `metrics`, name in `timed` the files that hold measured
    times or the command.

    `artifact` is set once it is published.
    """

    path: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    timed: set[str] = field(default_factory=set)
    _artifact: Artifact | None = None

    @property
    def artifact(self) -> Artifact:
        assert self._artifact is not None, "the draft is not published yet"
        return self._artifact


@contextmanager
def draft_folder(folder: Path) -> Iterator[Path]:
    """Give an empty hidden folder inside `folder`; what is still there at the end is removed.

    A lock beside it is held meanwhile. It tells others that its builder is alive, also those in other containers, whose
    process numbers and host names say nothing.
    """
    path, lock = _new(folder)
    try:
        yield path
    finally:
        try:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            _lock_of(path).unlink(missing_ok=True)
            lock.close()


def _new(folder: Path) -> tuple[Path, IO[bytes]]:
    while True:
        path = folder / f"{PREFIX}{uuid4().hex[:12]}"
        lock = _lock_of(path).open("xb")
        # Who clears up may have seen the lock between these lines, before it was held, and taken it away.
        if _hold(lock) and _lock_of(path).exists():
            path.mkdir()
            return path, lock
        lock.close()


def remove_abandoned(folder: Path) -> int:
    """Remove drafts that nobody builds any more; returns how many."""
    removed = 0
    for path in {path.with_name(path.name.removesuffix(LOCK)) for path in folder.glob(f"{PREFIX}*")}:
        try:
            lock = _lock_of(path).open("rb")
        except FileNotFoundError:  # its lock went first
            removed += _remove(path)
            continue
        with lock:
            if _hold(lock):
                removed += _remove(path)
                _lock_of(path).unlink(missing_ok=True)
    return removed


def _remove(path: Path) -> int:
    found = path.is_dir()
    shutil.rmtree(path, ignore_errors=True)
    return int(found)


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + LOCK)


def _hold(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

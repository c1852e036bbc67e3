"""The folder of a run: one process at a time, and what the run needs to go on."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from idgrpo.errors import BusyError, UsageError
from idgrpo.records.atomic import replacing
from idgrpo.run.checkpoint import Checkpoints
from idgrpo.run.metrics import MetricsLog

LOCK_FILE = "lock"
CARD_FILE = "run.json"


class RunFolder:
    """An open run: `path`, `metrics` (metrics.jsonl) and `checkpoints`."""

    def __init__(self, path: Path):
        self.path = path
        self.metrics = MetricsLog(path / "metrics.jsonl")
        self.checkpoints = Checkpoints(path / "checkpoints", before_publish=self.metrics.sync)

    @classmethod
    @contextmanager
    def open(cls, path: Path | str, card: dict[str, Any]) -> Iterator["RunFolder"]:
        """Take the run's lock and write its card.

        Args:
            card: what decides the result (configuration, digests of the inputs); for people, and for those who ask what
                a running process reads.

        Raises:
            BusyError: another process works in it.
        """
        path = Path(path)
        lock = _locked(path)
        try:
            with replacing(path / CARD_FILE) as draft:
                draft.write_text(json.dumps(card, indent=1, default=str), encoding="utf-8")
            yield cls(path)
        finally:
            lock.close()

    def clear(self) -> None:
        """Remove all that lies in the folder but the lock and the card, which its owner still holds."""
        for path in self.path.iterdir():
            if path.name not in (LOCK_FILE, CARD_FILE):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def remove(self) -> None:
        """Remove the folder with its lock; who waits for the lock makes a new folder."""
        self.clear()
        for name in (CARD_FILE, LOCK_FILE):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody has made the lock anew: the folder is theirs
            self.path.rmdir()


def refuse_if_held(path: Path) -> None:
    """Raise BusyError when a process works in a run's folder now."""
    with contextlib.suppress(FileNotFoundError), (path / LOCK_FILE).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(path) from None


def _busy(path: Path) -> BusyError:
    return BusyError(f"another process is working in {path}", fix="wait for it, or use another --name")


def _locked(path: Path) -> IO[str]:
    """Hold the lock file of a folder, made if need be; a lock whose file was removed meanwhile does not count."""
    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UsageError(f"{path} is a file, a run needs a folder", fix="use another --name or --store") from None
        try:
            lock = (path / LOCK_FILE).open("a")
        except FileNotFoundError:  # its owner removed the folder just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(lock.fileno()).st_ino == (path / LOCK_FILE).stat().st_ino:
                    return lock
        except BlockingIOError:
            lock.close()
            raise _busy(path) from None
        lock.close()

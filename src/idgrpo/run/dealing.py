"""Deal the items of a run out to all processes that work in its folder: ranks of one job, or independent jobs of a cluster.

An item (a batch of clips, a pair, a photo) is made by whoever claims it first. A claim is a file in the run's folder, so
processes need nothing in common but the folder. The owner renews its claim; a claim that nobody renewed for `limit_s`
seconds, or whose process has ended on this machine, is taken over. Two owners of one item, possible after a pause longer
than the limit, write the same bytes twice.
"""

import contextlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from idgrpo.run.progress import ProgressBar, progress

T = TypeVar("T")
CLAIM_LIMIT_S = 300.0
"""How long a claim lasts that nobody renews; its owner renews it six times in that time."""
CLAIMS, CLOSED, DONE = "claims", "claims-closed", "done"
POLL_S = 0.2
LOOK_EVERY_S = 2.0


class RunClosedError(Exception):
    """All items are made and the run is being published: there is nothing left to help with."""


@dataclass
class Dealing:
    """The part of one process in a run; `Dealing()` is a process alone: all items are its own.

    Attributes:
        folder: of the run; None keeps nothing.
        shared: whether other processes may work in the folder; without it nothing needs to be claimed.
        rank, size: this process among the ranks of its job; each begins at another place of the list.
        publishes: whether this process writes the result and shows the progress of all.
        limit_s: how long a claim lasts that is not renewed.
    """

    folder: Path | None = None
    shared: bool = False
    rank: int = 0
    size: int = 1
    publishes: bool = True
    limit_s: float = CLAIM_LIMIT_S
    _given: set[str] = field(default_factory=set, init=False, repr=False)
    _own: Path | None = field(default=None, init=False, repr=False)
    _renewing: threading.Event | None = field(default=None, init=False, repr=False)

    def open(self, *, alone: bool) -> None:
        """Let processes claim; `alone`: nobody else works here yet, so that claims of an earlier start mean nothing."""
        if self.shared and self.folder is not None:
            if alone:
                shutil.rmtree(self.folder / CLAIMS, ignore_errors=True)
            (self.folder / CLAIMS).mkdir(exist_ok=True)

    def is_open(self) -> bool:
        """Tell whether items can be claimed."""
        return self.folder is not None and (self.folder / CLAIMS).is_dir()

    def close(self) -> None:
        """Say that all items are made: from here on nobody can claim, and files of the run may disappear."""
        if self.shared and self.folder is not None:
            shutil.rmtree(self.folder / CLOSED, ignore_errors=True)
            os.rename(self.folder / CLAIMS, self.folder / CLOSED)

    def __enter__(self) -> "Dealing":
        return self

    def __exit__(self, *_: object) -> None:
        """Give back a claim whose item was not finished."""
        self._release()
        if self._renewing is not None:
            self._renewing.set()
            self._renewing = None

    def share(
        self,
        items: Sequence[T],
        name: Callable[[T], str],
        made: Callable[[T], bool] | None = None,
        *,
        label: str,
        unit: str = "",
        count: Callable[[T], int] = lambda item: 1,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[T]:
        """Give the items that this process is to make, one by one, until all are made, by whomever.

        Args:
            name: of an item, the same in every process; a file is called by it.
            made: tells whether an item is made; None: it was given here or elsewhere and the next one was asked for.
            label, unit, count: of the progress bar, which counts what all processes made.
            check: called often; it may raise (StopSignal.check).

        Raises RunClosedError in a process that does not publish, when the others have finished everything.
        """
        is_made = made or (lambda item: self._is_marked(f"{label}.{name(item)}"))
        bars = progress(sum(map(count, items)), label, unit) if self.publishes else contextlib.nullcontext()
        with bars as bar:
            tally = _Tally(items, is_made, count, bar)
            first = self.rank * len(tally.open) // self.size
            waiting = deque([*tally.open[first:], *tally.open[:first]])
            skipped = 0  # items seen in a row that are others'
            while waiting:
                check()
                item = waiting.popleft()
                if is_made(item):
                    skipped = 0
                elif self._claim(f"{label}.{name(item)}"):
                    skipped = 0
                    if not is_made(item):  # its maker may have finished it just before our claim
                        yield item
                        if made is None:
                            self._mark(f"{label}.{name(item)}")
                    self._release()
                else:
                    waiting.append(item)
                    skipped += 1
                    if skipped >= len(waiting):
                        skipped = 0
                        time.sleep(POLL_S)
                tally.look()
            tally.look(at_once=True)

    def agree(self, name: str, value: int) -> int:
        """Give the value that all processes of the run take, also later ones: that of the first one to ask."""
        if self.folder is None:
            return value
        file = self.folder / _file_name(name)
        if not file.exists():
            draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
            draft.write_text(str(value), encoding="ascii")
            with contextlib.suppress(FileExistsError):
                os.link(draft, file)
            draft.unlink()
        return int(file.read_text(encoding="ascii"))

    def _mark(self, name: str) -> None:
        self._given.add(name)
        if self.folder is not None:
            (self.folder / DONE).mkdir(exist_ok=True)
            (self.folder / DONE / _file_name(name)).touch()

    def _is_marked(self, name: str) -> bool:
        if name not in self._given and self.folder is not None and (self.folder / DONE / _file_name(name)).exists():
            self._given.add(name)
        return name in self._given

    def _claim(self, name: str) -> bool:
        """Make a claim ours: where there is none, or where its owner is gone."""
        if not self.shared or self.folder is None:
            return True
        path = self.folder / CLAIMS / _file_name(name)
        own = json.dumps(_process())
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(own)
        except FileExistsError:
            if not self._is_abandoned(path):
                return False
            draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            draft.write_text(own, encoding="utf-8")
            os.replace(draft, path)
            if path.read_text(encoding="utf-8") != own:  # somebody else took it over at the same time
                return False
        except FileNotFoundError:
            raise RunClosedError from None
        self._own = path
        self._keep_renewing()
        return True

    def _release(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            own.unlink(missing_ok=True)

    def _is_abandoned(self, claim: Path) -> bool:
        try:
            held, renewed_s = claim.read_text(encoding="utf-8"), claim.stat().st_mtime
        except FileNotFoundError:
            return False  # it was released: the next look at the item tells
        with contextlib.suppress(ValueError):
            if _has_ended(json.loads(held)):
                return True
        # Both times come from the file system's clock: those of two machines may differ.
        clock = claim.with_name(f".clock.{os.getpid()}.{threading.get_ident()}.{socket.gethostname()}")
        clock.touch()
        os.utime(clock)
        return clock.stat().st_mtime - renewed_s > self.limit_s

    def _keep_renewing(self) -> None:
        if self._renewing is not None:
            return
        self._renewing = ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self.limit_s / 6):
                with contextlib.suppress(OSError):
                    if (own := self._own) is not None:
                        os.utime(own)

        threading.Thread(target=renew, name="claims", daemon=True).start()


class _Tally:
    """Which items are still open, looked up now and then, for the one bar of all processes."""

    def __init__(
        self, items: Sequence[T], made: Callable[[T], bool], count: Callable[[T], int], bar: ProgressBar | None
    ):
        self.made, self.count, self.bar = made, count, bar
        self.open: list[Any] = list(items)
        self._next_s = 0.0
        self._look()

    def look(self, *, at_once: bool = False) -> None:
        """Advance the bar by what was made since the last look; each look costs a call of the file system an item."""
        if self.bar is not None and (at_once or time.monotonic() >= self._next_s):
            self._look()

    def _look(self) -> None:
        started_s = time.monotonic()
        left = [item for item in self.open if not self.made(item)]
        if (done := sum(map(self.count, self.open)) - sum(map(self.count, left))) and self.bar is not None:
            self.bar.advance(done)
        self.open = left
        took_s = time.monotonic() - started_s
        self._next_s = started_s + (LOOK_EVERY_S if took_s > 1e-3 else 0.0) + 20 * took_s


def _file_name(name: str) -> str:
    """Make a file name of an item's name; what had to be changed or cut is told apart by a digest."""
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:100]
    return plain if plain == name else f"{plain}-{uuid.uuid5(uuid.NAMESPACE_OID, name).hex[:12]}"


def _process() -> dict[str, Any]:
    """Say who claims: machine (this start of it, this container), process, and when it began."""
    return {"machine": _machine(), "pid": os.getpid(), "began": _began(os.getpid()), "thread": threading.get_ident()}


def _machine() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _began(pid: int) -> str | None:
    """Give the start time of a process in the kernel's ticks; None where there is no such process."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    return None


def _has_ended(owner: dict[str, Any]) -> bool:
    """Tell whether the process that wrote a claim ran here and is gone; unknown (another machine) is no."""
    here = bool(owner.get("machine")) and owner.get("machine") == _machine()
    return here and _began(int(owner.get("pid", 0))) != owner.get("began")

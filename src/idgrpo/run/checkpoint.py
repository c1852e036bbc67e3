"""Checkpoints: whole directories that appear at once or not at all."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idgrpo.errors import MachineError
from idgrpo.records.atomic import replacing
from idgrpo.records.digest import sha256_of
from idgrpo.records.document import parse_json
from idgrpo.run.machine import require_disk
from idgrpo.run.progress import tell

PREFIX = "step-"
SEAL = "sealed.json"


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint: its folder, and the JSON state saved with it."""

    step: int
    path: Path
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run, `folder/step-000012/` each.

    Args:
        keep_last: how many of the newest stay, at least one.
        keep_every: steps divisible by it stay as well (0: none).
        before_publish: called when a checkpoint is written and not yet published; what it says must be on disk by then.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_last: int = 2,
        keep_every: int = 0,
        before_publish: Callable[[], None] = lambda: None,
    ):
        self.folder, self.keep_last, self.keep_every = folder, max(1, keep_last), keep_every
        self.before_publish = before_publish
        self._whole: set[Path] = set()  # saved or checked by this process: gigabytes that need not be read again

    def save(self, step: int, files: Callable[[Path], None], state: dict[str, Any]) -> Checkpoint:
        """Let `files` write into a draft folder, add the state, make all of it durable, and publish it by one rename.

        A full disk or a kill leaves the older checkpoints as they were; so it does with an older one of the same step,
        which steps aside and counts until the new one is there. Raises MachineError, before anything is written, when
        there is less room than the newest checkpoint takes.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear_drafts()
        newest = self.latest()
        if newest is not None:
            require_disk(self.folder, sum(path.stat().st_size for path in newest.path.rglob("*") if path.is_file()))
        draft = self.folder / f".draft-{step:06d}-{os.getpid()}"
        target, aside = self._target(step), self._aside(step)
        try:
            draft.mkdir()
            files(draft)
            (draft / "state.json").write_text(json.dumps({"step": step, **state}), encoding="utf-8")
            seal(draft)
            self.before_publish()
            if target.exists():
                os.rename(target, aside)
            os.rename(draft, target)
            _sync(self.folder)
            self._whole.add(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
        self._drop_old()
        return Checkpoint(step, target, state)

    def steps(self) -> list[int]:
        """List the published steps, oldest first."""
        if not self.folder.is_dir():
            return []
        names = {path.name.lstrip(".").removeprefix(PREFIX) for path in self.folder.glob(f"*{PREFIX}*")}
        return sorted(int(name) for name in names if name.isdigit())

    def latest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint, or None. A newer one that is damaged is told, and passed over."""
        for step in reversed(self.steps()):
            for path in (self._target(step), self._aside(step)):
                if not path.is_dir():
                    continue
                problem = None if path in self._whole else damage(path)
                if problem is None:
                    self._whole.add(path)
                    return Checkpoint(step, path, parse_json((path / "state.json").read_text(encoding="utf-8")))
                tell(f"warning: the checkpoint {path} is not used: {problem}")
        return None

    def at(self, step: int) -> Checkpoint:
        """Return the checkpoint that another rank found whole. Raises MachineError when this rank does not see it."""
        for path in (self._target(step), self._aside(step)):
            if path.is_dir():
                return Checkpoint(step, path, parse_json((path / "state.json").read_text(encoding="utf-8")))
        raise MachineError(
            f"{self._target(step)} is seen by the main rank and not by this one", fix="use a store that all nodes share"
        )

    def _target(self, step: int) -> Path:
        return self.folder / f"{PREFIX}{step:06d}"

    def _aside(self, step: int) -> Path:
        """Where a checkpoint waits while another of the same step takes its place."""
        return self.folder / f".{PREFIX}{step:06d}"

    def _drop_old(self) -> None:
        steps = self.steps()
        for step in steps[: -self.keep_last]:
            if not (self.keep_every and step % self.keep_every == 0):
                shutil.rmtree(self._target(step), ignore_errors=True)

    def _clear_drafts(self) -> None:
        """Remove what a kill left: drafts, and what stepped aside (which comes back where nothing took its place)."""
        for path in self.folder.glob(f".{PREFIX}*"):
            target = self.folder / path.name.removeprefix(".")
            if target.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.rename(path, target)
        for path in self.folder.glob(".draft-*"):
            shutil.rmtree(path, ignore_errors=True)


def seal(folder: Path) -> None:
    """Flush a checkpoint to the disk and write down what it holds; from then on it counts."""
    sync_tree(folder)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    with replacing(folder / SEAL) as draft:
        draft.write_text(json.dumps({name: sha256_of(files[name]) for name in sorted(files)}), encoding="utf-8")


def damage(folder: Path) -> str | None:
    """Say what of a checkpoint is missing or other than its seal says, None when it is whole."""
    try:
        sealed = parse_json((folder / SEAL).read_text(encoding="utf-8"))
        for name, digest in sealed.items():
            if sha256_of(folder / name) != digest:
                return f"{name} was changed"
    except FileNotFoundError as error:
        return f"it was not finished: {Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"it cannot be read: {error}"
    return None


def sync_tree(folder: Path) -> None:
    """Flush every file and folder under `folder` to the disk."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

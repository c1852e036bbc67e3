"""The folder of a run: one process at a time, one configuration for its whole life."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idgrpo.errors import ArtifactError, BusyError, UsageError
from idgrpo.records.atomic import replacing
from idgrpo.run.checkpoint import Checkpoints
from idgrpo.run.metrics import MetricsLog


class RunFolder:
    """An open run: `path`, `metrics` (metrics.jsonl) and `checkpoints`."""

    def __init__(self, path: Path):
        self.path = path
        self.metrics = MetricsLog(path / "metrics.jsonl")
        self.checkpoints = Checkpoints(path / "checkpoints", before_publish=self.metrics.sync)

    @classmethod
    @contextmanager
    def open(cls, path: Path | str, *, fingerprint: dict[str, Any], resume: bool) -> Iterator["RunFolder"]:
        """Take the run's lock and check that it is the same run.

        Args:
            fingerprint: what makes two runs the same: configuration and digests of the inputs.
            resume: go on with what is there; otherwise a folder with a begun run is refused.

        Raises:
            BusyError: another process works in it.
            UsageError: a run was begun here and `resume` is off, or its fingerprint differs; names the ways out.
        """
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UsageError(f"{path} is a file, a run needs a folder", fix="use another --name or --store") from None
        with (path / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"another process is working in {path}", fix="wait for it, or use another --name"
                ) from None
            _check(path, json.loads(json.dumps(fingerprint, default=str)), resume)
            yield cls(path)


def _check(path: Path, fingerprint: dict[str, Any], resume: bool) -> None:
    card = path / "run.json"
    ways = f"use another --name, or remove {path}"
    if not card.exists():
        with replacing(card) as draft:
            draft.write_text(json.dumps(fingerprint, indent=1), encoding="utf-8")
        return
    try:
        before = json.loads(card.read_text(encoding="utf-8"))
    except ValueError:
        raise ArtifactError(f"{card} is damaged: it is not JSON", fix=ways) from None
    if before != fingerprint:
        differ = sorted(key for key in {*before, *fingerprint} if before.get(key) != fingerprint.get(key))
        details = "; ".join(_difference(key, before.get(key), fingerprint.get(key)) for key in differ)
        raise UsageError(f"{path} holds a run with other settings: {details}", fix=ways)
    if not resume and Checkpoints(path / "checkpoints").latest() is not None:
        raise UsageError(f"{path} holds a begun run", fix=f"go on with --resume, {ways}")


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        parts = [
            _difference(f"{key}.{k}", before.get(k), now.get(k)) for k in {*before, *now} if before.get(k) != now.get(k)
        ]
        return "; ".join(sorted(parts)[:5])
    return f"{key} was {str(before)[:60]}, is {str(now)[:60]}"

"""metrics.jsonl: the truth about a run, one line per step, exact across resumes."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from idgrpo.records.atomic import replacing
from idgrpo.records.document import parse_json


class MetricsLog:
    """Append figures to a JSON Lines file; a line outlives its process at once, and the machine from `sync` on."""

    def __init__(self, path: Path):
        self.path = path

    def log(self, step: int, **values: float | int | str | bool | None) -> None:
        """Append one line; numbers that are not finite are written as text, so that the file stays JSON."""
        row: dict[str, Any] = {"step": step}
        for key, value in values.items():
            row[key] = str(value) if isinstance(value, float) and not math.isfinite(value) else value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            # A kill may have cut the line before: it must not take this one with it.
            at_end = file.seek(0, os.SEEK_END)
            if at_end and os.pread(file.fileno(), 1, at_end - 1) != b"\n":
                file.write(b"\n")
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())

    def sync(self) -> None:
        """Flush the lines to the disk: a checkpoint must never know of steps that a power cut takes from the log."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            os.fsync(file.fileno())

    @staticmethod
    def read(path: Path) -> Iterator[dict[str, Any]]:
        """Read the lines of a log; one that a crash cut short, or that was damaged, is left out alone."""
        if not path.exists():
            return
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError, RecursionError):
                    row = parse_json(line)
                    if isinstance(row, dict):
                        yield row

    def truncate_after(self, step: int) -> None:
        """Drop lines of later steps (and torn ones), so that a resumed run writes them once."""
        if not self.path.exists():
            return
        rows = [row for row in self.read(self.path) if isinstance(at := row.get("step"), int) and at <= step]
        with replacing(self.path) as draft:
            draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

"""Drafts: artifacts being built, in hidden folders that name the process that builds them."""

import os
import re
import shutil
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idgrpo.store.artifact import Artifact

PREFIX = ".draft-"
NAMED = re.compile(r"\.draft-(?P<host>.+)-(?P<process>\d+)-[^-]+")


@dataclass
class Draft:
    """An artifact being built: write into `path`, add to `metrics`, name in `timed` the files that hold measured times.

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


def new_draft_folder(folder: Path) -> Path:
    """Make an empty hidden folder `.draft-<host>-<process>-<random>` inside `folder`."""
    path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{_host()}-{os.getpid()}-", dir=folder))
    os.chmod(path, 0o755)
    return path


def remove_abandoned(folder: Path) -> int:
    """Remove drafts whose process is gone; returns how many.

    A store may be shared by machines and containers whose process numbers say nothing about each other: drafts of another
    host are left alone.
    """
    removed = 0
    for path in folder.glob(f"{PREFIX}*"):
        owner = NAMED.fullmatch(path.name)
        if owner and owner["host"] == _host() and not Path(f"/proc/{owner['process']}").exists():
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
    return removed


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname()) or "unknown"

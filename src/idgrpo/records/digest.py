"""Digests of what files hold; large files are read once and remembered until they change."""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from idgrpo.records.atomic import replacing
from idgrpo.records.document import parse_json

SMALL_BYTES = 2**20
"""Smaller files are hashed each time: that is as quick as a look into the cache."""
SETTLED_S = 2.0
"""A younger file may change again without a new time of change, so its digest is not remembered."""


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hexadecimal digits; OSError when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """Return what `sha256_of` returns, without reading a large file again that has not changed.

    A remembered digest counts while resolved path, size, times of change and inode are what they were. The memory lies
    in `$XDG_CACHE_HOME/idgrpo/digests` (or `~/.cache`), one small file a path; where it cannot be read or written, every
    call reads the file. OSError when the file itself cannot be read.
    """
    path = path.resolve(strict=True)
    facts = path.stat()
    if facts.st_size < SMALL_BYTES:
        return sha256_of(path)
    state = _state(path, facts)
    if (known := _recall(path, state)) is not None:
        return known
    settled = time.time() - facts.st_mtime > SETTLED_S
    digest = sha256_of(path)
    if settled and _state(path, path.stat()) == state:  # nobody wrote while it was read
        _remember(path, state, digest)
    return digest


def files_digest(files: Iterable[tuple[str, Path]]) -> str:
    """Return one sha256 over names and contents, in the order of the names: where the files lie does not count."""
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(f"{len(name)}:{name}={file_digest(path)}\n".encode())
    return digest.hexdigest()


def _state(path: Path, facts: os.stat_result) -> list[object]:
    # The inode's own time of change is kept as well: a copy that keeps times (`cp -p`, `rsync -t`) does not fake it.
    return [str(path), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def _place(path: Path) -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if os.path.isabs(given) else Path("~/.cache").expanduser()
    return root / "idgrpo" / "digests" / hashlib.sha256(os.fsencode(path)).hexdigest()[:40]


def _recall(path: Path, state: list[object]) -> str | None:
    try:
        entry = parse_json(_place(path).read_text(encoding="utf-8"))
        known = entry["sha256"] if entry["state"] == state else ""
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None
    return known if isinstance(known, str) and re.fullmatch("[0-9a-f]{64}", known) else None


def _remember(path: Path, state: list[object], digest: str) -> None:
    try:
        place = _place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as draft:
            draft.write_text(json.dumps({"state": state, "sha256": digest}), encoding="utf-8")
    except (OSError, RuntimeError, ValueError):  # no room, no permission, no home
        pass

"""Files that appear whole or not at all, whoever else writes the same file at the same time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give an empty draft beside `path` that takes its place, flushed to disk, when the block ends.

    An error inside removes the draft and leaves `path` as it was. Two writers, threads of one process or processes of two
    machines, never share a draft: each holds a lock on its own. What a kill leaves, ending in `.part`, is free again, and the
    next writer of the same file uses it up.
    """
    draft, lock = _take_draft(path)
    with lock:
        try:
            yield draft
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # or a power cut takes the name away again
            finally:
                os.close(folder)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def _take_draft(path: Path) -> tuple[Path, IO[bytes]]:
    for slot in count():
        draft = path.with_name(f".{path.name}.{slot}.part")
        while True:
            lock = draft.open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if draft.exists() and os.path.samestat(os.fstat(lock.fileno()), draft.stat()):
                    lock.truncate(0)
                    return draft, lock
            except BlockingIOError:
                lock.close()
                break
            except FileNotFoundError:
                pass
            lock.close()  # it took its place, or was removed, before we held it
    raise AssertionError("count() does not end")

"""Files that appear whole or not at all, whoever else writes the same file at the same time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a draft beside `path` that takes its place, flushed to disk, when the block ends.

    An error inside removes the draft and leaves `path` as it was. The draft's name is random: two writers, threads of one
    process or processes of two machines, never share one. It ends in `.part`; a kill may leave it behind.
    """
    draft = path.with_name(f".{path.name}.{uuid4().hex[:12]}.part")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)

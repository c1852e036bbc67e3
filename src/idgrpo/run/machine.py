"""What the machine has: disk, memory, cores."""

import os
import shutil
from pathlib import Path

from idgrpo.errors import MachineError


def free_disk_bytes(path: Path) -> int:
    """Return free bytes on the disk that holds `path` (or its nearest existing parent)."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def memory_bytes() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_disk(path: Path, size_bytes: int) -> None:
    """Raise MachineError when less than `size_bytes` is free where `path` lies."""
    free = free_disk_bytes(path)
    if free < size_bytes:
        raise MachineError(
            f"{path} needs {size_bytes / 2**20:.0f} MiB, the disk has {free / 2**20:.0f} MiB left",
            fix="free some space or point --store elsewhere",
        )

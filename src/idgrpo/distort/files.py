"""Write clips and images whole and once: named by content, renamed into place."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch


def digest_of(tensor: torch.Tensor) -> str:
    """Give the first 16 hex digits of the sha256 of a tensor's shape and bytes."""
    digest = hashlib.sha256(repr(tuple(tensor.shape)).encode())
    digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Give the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_once(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a file beside `path`, then rename; do nothing when it is there already.

    Several processes may do this at the same time: they write the same bytes.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            write(beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    return path

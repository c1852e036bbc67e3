"""Write clips, images and parts whole and once: named by content, drafted elsewhere, renamed into place."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import torch

DRAFTS = "drafts"


def digest_of(tensor: torch.Tensor) -> str:
    """Give the first 16 hex digits of the sha256 of a tensor's shape and bytes."""
    digest = hashlib.sha256(repr(tuple(tensor.shape)).encode())
    digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Give the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_once(path: Path, write: Callable[[Path], object], folder: Path) -> Path:
    """Let `write` fill a draft in `folder`/drafts, then rename it to `path`; do nothing when `path` is there already.

    A killed writer leaves its draft in that folder only, where nothing is published from. Several processes may write one path
    at the same time: they write the same bytes.
    """
    if not path.exists():
        draft = folder / DRAFTS / uuid4().hex[:12] / path.name
        draft.parent.mkdir(parents=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(draft)
            os.replace(draft, path)
        finally:
            shutil.rmtree(draft.parent)
    return path


def remove_drafts(folder: Path) -> None:
    """Remove what killed writers left in `folder`/drafts; nobody else may be writing."""
    if (folder / DRAFTS).exists():
        shutil.rmtree(folder / DRAFTS)

"""Files whole and once: named by content, drafted elsewhere, renamed into place; and exactly what records name is published."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import torch

from idgrpo.errors import ArtifactError
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Preference

DRAFTS = "drafts"
PREFERENCES_FILE = "prefs.jsonl"
SUMMARY_FILE = "summary.json"
SHEET_FILE = "contact_sheet.png"
REFUSALS_FILE = "refused.jsonl"


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


def sheet_of(distortion: str | None) -> str:
    """Name the sheet of a distortion, relative to the folder of its preferences."""
    return f"sheets/{distortion or 'unknown'}.png"


def copy_result(work: Path, target: Path) -> None:
    """Link (or copy, across file systems) what belongs to the result into `target`; `work` stays whole, so a kill loses nothing.

    Raises ArtifactError when a file that a record names is gone.
    """
    work = work.resolve()
    for name in _names(work):
        if not (work / name).is_file():
            raise ArtifactError(
                f"{work / PREFERENCES_FILE} names {name}, which is gone", fix=f"remove {work} and run again"
            )
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        _link(work / name, target / name)


def _names(work: Path) -> Iterator[str]:
    """Give the files of the result relative to `work`, each once; sheets only where all of them were finished."""
    yield from (PREFERENCES_FILE, SUMMARY_FILE, REFUSALS_FILE)
    named: set[str] = set()
    with_sheets = (work / SHEET_FILE).is_file()
    for pair in read_records(work / PREFERENCES_FILE, Preference):
        images = [image for reference in pair.references for image in (*reference.images, *reference.second)]
        paths = [os.path.relpath(path, work) for path in (pair.video_a, pair.video_b, *images)]
        sheet = sheet_of(pair.distortion)
        for path in [*paths, *([sheet] if with_sheets and (work / sheet).is_file() else [])]:
            if path not in named:
                named.add(path)
                yield path
    if with_sheets:
        yield SHEET_FILE


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

"""What finders found, kept on disk: whoever asks about the same pixels with the same finder gets the same answer, at once.

One folder serves `distort`, `eval` and all else that looks for people. Entries are named by content: of the pixels, and of the finder's
weights and settings (`fingerprint_of`).
"""

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from idgrpo.people.contract import Detection, Finder, fingerprint_of, levels_of
from idgrpo.people.load import load_finder

FORMAT = 1  # raise it when entries are written otherwise
Found = list[list[Detection]]


class KeptFinder:
    """Ask another finder, and keep its answers in a folder.

    A finder whose fingerprint cannot be told is asked every time. A damaged entry counts as absent.
    """

    def __init__(self, finder: Finder, folder: Path):
        self.finder = finder
        self.covers = getattr(finder, "covers", "face")
        self.levels = levels_of(finder)
        self._print = fingerprint_of(finder)
        known = self._print == fingerprint_of(finder)
        self.folder = folder / f"{self._print}-{FORMAT}" if known else None

    def fingerprint(self) -> str:
        """Tell the finder's own: what is kept changes no answer."""
        return self._print

    def find(self, clip: Tensor) -> Found:
        """Find people in each frame of uint8 [frame, 3, height, width].

        Clips are asked about one by one: in a batch with others the last bits of a network's answer may differ.
        """
        path = self._path(clip, ".npz")
        found = _load(path)
        if found is None:
            found = self.finder.find(clip)
            if path is not None:
                _write(path, _packed(found))
        return found

    def embed_reference(self, image: Tensor) -> np.ndarray:
        """Embed a portrait uint8 [3, height, width]; DataError when nobody is in it (which is not kept)."""
        path = self._path(image, ".npy")
        if path is not None and path.exists():
            try:
                return np.load(path, allow_pickle=False)
            except (OSError, ValueError, EOFError):
                pass
        vector = np.asarray(self.finder.embed_reference(image))
        if path is not None:
            buffer = io.BytesIO()
            np.save(buffer, vector)
            _write(path, buffer.getvalue())
        return vector

    def _path(self, pixels: Tensor, ending: str) -> Path | None:
        if self.folder is None:
            return None
        digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
        digest.update(pixels.contiguous().numpy().tobytes())
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}{ending}"


def load_kept_finder(folder: Path, name: str, **options: Any) -> Finder:
    """Make the finder called `name` (see `load_finder`), which keeps in `folder` what it finds."""
    return KeptFinder(load_finder(name, **options), folder)


OPTIONAL = ("embedding", "mask", "landmarks")


def _packed(found: Found) -> bytes:
    """Write detections as arrays; of what not every detection has, also which ones do."""
    rows = [detection for frame in found for detection in frame]
    held: dict[str, Any] = {
        "frames": np.array(len(found)),
        "frame": np.array([d.frame for d in rows], np.int64),
        "box": np.array([d.box for d in rows], np.float64).reshape(-1, 4),
        "score": np.array([d.score for d in rows], np.float64),
    }
    for name in OPTIONAL:
        having = [index for index, d in enumerate(rows) if getattr(d, name) is not None]
        if having:
            held[f"{name}.of"] = np.array(having, np.int64)
            held[name] = np.stack([np.asarray(getattr(rows[index], name)) for index in having])
    buffer = io.BytesIO()
    (np.savez_compressed if "mask" in held else np.savez)(buffer, **held)
    return buffer.getvalue()


def _load(path: Path | None) -> Found | None:
    if path is None or not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            held = {name: stored[name] for name in stored.files}
        rows = [
            Detection(frame, tuple(box), score)
            for frame, box, score in zip(
                held["frame"].tolist(), held["box"].tolist(), held["score"].tolist(), strict=True
            )
        ]
        for name in OPTIONAL:
            for index, value in zip(held.get(f"{name}.of", ()), held.get(name, ()), strict=True):
                setattr(rows[index], name, value)
        found: Found = [[] for _ in range(int(held["frames"]))]
        for row in rows:
            found[row.frame].append(row)
        return found
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, content: bytes) -> None:
    """Write a file so that other processes see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_bytes(content)
    draft.replace(path)

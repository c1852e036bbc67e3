"""Observations and scores on disk, by content: the same video is never looked at twice, whoever asks, and runs can be cut."""

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from idgrpo.evaluate.config import FindingConfig
from idgrpo.evaluate.copies import PRINT_PX
from idgrpo.evaluate.observe import OBSERVATION_VERSION
from idgrpo.evaluate.subject import Observation
from idgrpo.records.document import parse_json

ARRAYS = ("frame", "box", "score", "track", "embedding", "detail", "print")


class ObservationCache:
    """Keep observations, reference embeddings and scores under one folder; folder None keeps nothing.

    A damaged entry counts as absent: it is looked at again and overwritten.
    """

    def __init__(self, folder: Path | None, finder: str, config: FindingConfig):
        settings = config.model_dump(exclude={"batch_size", "device", "options"})
        # `finder` is a fingerprint, which tells its options and weights.
        text = json.dumps([finder, OBSERVATION_VERSION, settings], sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:12] if folder else None

    def _path(self, digest: str, suffix: str) -> Path | None:
        return self.folder / digest[:2] / f"{digest}{suffix}" if self.folder else None

    def observation(self, digest: str) -> Observation | None:
        path = self._path(digest, ".npz")
        if path is None or not path.exists():
            return None
        try:
            return _load_observation(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def keep_observation(self, digest: str, observation: Observation) -> None:
        if path := self._path(digest, ".npz"):
            _save_observation(path, observation)

    def reference(self, digest: str) -> np.ndarray | None:
        path = self._path(digest, ".ref.json")
        values = _read_json(path)
        return np.array(values, np.float32) if isinstance(values, list) else None

    def keep_reference(self, digest: str, vector: np.ndarray) -> None:
        if path := self._path(digest, ".ref.json"):
            _write_whole(path, json.dumps([float(v) for v in vector]).encode())

    def prints(self, digest: str) -> np.ndarray | None:
        path = self._path(digest, ".print.json")
        values = _read_json(path)
        return np.array(values, np.float32).reshape(-1, PRINT_PX**2) if isinstance(values, list) else None

    def keep_prints(self, digest: str, prints: np.ndarray) -> None:
        if path := self._path(digest, ".print.json"):
            _write_whole(path, json.dumps(prints.astype(float).round(5).tolist()).encode())

    def scores(self, digest: str, scorer: str) -> list[float] | None:
        values = _read_json(self._path(digest, f".{scorer}.json"))
        return values if isinstance(values, list) else None

    def keep_scores(self, digest: str, scorer: str, values: list[float]) -> None:
        if path := self._path(digest, f".{scorer}.json"):
            _write_whole(path, json.dumps(values).encode())


def _read_json(path: Path | None) -> object:
    if path is None or not path.exists():
        return None
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _save_observation(path: Path, observation: Observation) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        size=np.array([observation.num_frames, observation.height_px, observation.width_px], np.int64),
        fps=np.array(observation.fps),
        figure_names=np.array(list(observation.figures), dtype=np.str_),
        figure_values=np.array(list(observation.figures.values()), np.float64),
        **{name: getattr(observation, name) for name in ARRAYS},
    )
    _write_whole(path, buffer.getvalue())


def _load_observation(path: Path) -> Observation:
    """Read what `_save_observation` wrote; ValueError, OSError or KeyError when the file is damaged."""
    with np.load(path, allow_pickle=False) as stored:
        num_frames, height_px, width_px = (int(v) for v in stored["size"])
        figures = {str(n): float(v) for n, v in zip(stored["figure_names"], stored["figure_values"], strict=True)}
        arrays = {name: stored[name] for name in ARRAYS}
        return Observation(num_frames, height_px, width_px, float(stored["fps"]), figures=figures, **arrays)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers and later runs see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)

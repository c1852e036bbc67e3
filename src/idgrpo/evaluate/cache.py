"""Observations and scores on disk, by content: the same video is never looked at twice, whoever asks, and runs can be cut."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np

from idgrpo.evaluate.config import FindingConfig
from idgrpo.evaluate.observation import Observation, write_whole
from idgrpo.evaluate.observe import OBSERVATION_VERSION


def file_digest(path: str | Path) -> str:
    """Compute the sha256 of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


class ObservationCache:
    """Keep observations, reference embeddings and scores under one folder; folder None keeps nothing.

    A damaged entry counts as absent: it is looked at again and overwritten.
    """

    def __init__(self, folder: Path | None, finder: str, config: FindingConfig):
        settings = config.model_dump(exclude={"batch_size", "device"})
        text = json.dumps([finder, OBSERVATION_VERSION, settings], sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:12] if folder else None

    def _path(self, digest: str, suffix: str) -> Path | None:
        return self.folder / digest[:2] / f"{digest}{suffix}" if self.folder else None

    def observation(self, digest: str) -> Observation | None:
        path = self._path(digest, ".npz")
        if path is None or not path.exists():
            return None
        try:
            return Observation.load(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def keep_observation(self, digest: str, observation: Observation) -> None:
        if path := self._path(digest, ".npz"):
            observation.save(path)

    def reference(self, digest: str) -> np.ndarray | None:
        path = self._path(digest, ".ref.json")
        values = _read_json(path)
        return np.array(values, np.float32) if isinstance(values, list) else None

    def keep_reference(self, digest: str, vector: np.ndarray) -> None:
        if path := self._path(digest, ".ref.json"):
            write_whole(path, json.dumps([float(v) for v in vector]).encode())

    def scores(self, digest: str, scorer: str) -> list[float] | None:
        values = _read_json(self._path(digest, f".{scorer}.json"))
        return values if isinstance(values, list) else None

    def keep_scores(self, digest: str, scorer: str, values: list[float]) -> None:
        if path := self._path(digest, f".{scorer}.json"):
            write_whole(path, json.dumps(values).encode())


def _read_json(path: Path | None) -> object:
    if path is None or not path.exists():
        return None
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None

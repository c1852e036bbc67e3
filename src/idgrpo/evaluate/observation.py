"""What was seen in one clip, once: detections, tracks, embeddings and figures of the picture. No pixels are kept."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ARRAYS = ("frame", "box", "score", "track", "embedding")


@dataclass(frozen=True)
class Observation:
    """Hold the people found in a clip, one row a detection.

    frame int32 [d]; box float32 [d, 4] (left, top, right, bottom); score float32 [d]; track int32 [d], -1 when in no track;
    embedding float32 [d, e], unit length or NaN where the finder gave none. `figures` are numbers of the whole picture.
    """

    num_frames: int
    height_px: int
    width_px: int
    fps: float
    frame: np.ndarray
    box: np.ndarray
    score: np.ndarray
    track: np.ndarray
    embedding: np.ndarray
    figures: dict[str, float]

    @property
    def num_tracks(self) -> int:
        return int(self.track.max()) + 1 if len(self.track) else 0

    def save(self, path: Path) -> None:
        """Write the observation whole or not at all (a temporary file, then rename)."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            size=np.array([self.num_frames, self.height_px, self.width_px], np.int64),
            fps=np.array(self.fps),
            figure_names=np.array(list(self.figures), dtype=np.str_),
            figure_values=np.array(list(self.figures.values()), np.float64),
            **{name: getattr(self, name) for name in ARRAYS},
        )
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Observation":
        """Read what `save` wrote; ValueError, OSError or KeyError when the file is damaged."""
        with np.load(path, allow_pickle=False) as stored:
            num_frames, height_px, width_px = (int(v) for v in stored["size"])
            figures = {str(n): float(v) for n, v in zip(stored["figure_names"], stored["figure_values"], strict=True)}
            arrays = {name: stored[name] for name in ARRAYS}
            return cls(num_frames, height_px, width_px, float(stored["fps"]), figures=figures, **arrays)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers and later runs see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)

"""Where the people of a clip are: one smoothed track per reference, found once and kept on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from idgrpo.distort.contract import NotPossible
from idgrpo.people.contract import Finder
from idgrpo.people.match import match_tracks
from idgrpo.people.track import LinkSettings, PersonTrack, link

Covers = Literal["face", "person"]


@dataclass(frozen=True)
class Located:
    """Hold the people of one clip, slot k = reference k.

    `boxes` float32 [slot, frame, 4] (NaN where unknown, interpolated over gaps), `seen` bool [slot, frame] (really detected),
    `angles` float32 [slot, frame] in radians, `embeddings` float32 [slot, d], `similarity` [slot] to the reference,
    `covers` what a box holds. `masks` uint8 0..255 [slot, frame, height, width] or None.
    """

    boxes: np.ndarray
    seen: np.ndarray
    angles: np.ndarray
    embeddings: np.ndarray
    similarity: np.ndarray
    covers: Covers = "face"
    masks: np.ndarray | None = None

    @property
    def num_slots(self) -> int:
        return self.boxes.shape[0]

    def coverage(self) -> np.ndarray:
        """Give the share of frames in which each person was detected, [slot]."""
        return self.seen.mean(axis=1)

    def save(self, path: Path) -> None:
        """Write as npz (masks compressed)."""
        masks: dict[str, Any] = {} if self.masks is None else {"masks": self.masks}
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                boxes=self.boxes,
                seen=self.seen,
                angles=self.angles,
                embeddings=self.embeddings,
                similarity=self.similarity,
                covers=np.array(self.covers),
                **masks,
            )

    @classmethod
    def load(cls, path: Path) -> "Located":
        """Read what `save` wrote."""
        with np.load(path) as held:
            values = {key: held[key] for key in held.files}
        values["covers"] = str(values["covers"])
        return cls(**values)


def smoothed(values: np.ndarray, radius: int = 2) -> np.ndarray:
    """Average [frame, ...] over time with a triangle of 2 radius + 1 frames, shrinking at the ends; NaN stays NaN.

    Detectors jitter by a pixel or two from frame to frame; a mask that jitters is a visible artefact.
    """
    weights = np.array([radius + 1 - abs(k) for k in range(-radius, radius + 1)], np.float64)
    known = ~np.isnan(values)
    result = np.full(values.shape, np.nan)
    for frame in range(len(values)):
        reach = min(radius, frame, len(values) - 1 - frame)
        part = slice(frame - reach, frame + reach + 1)
        w = weights[radius - reach : radius + reach + 1].reshape(-1, *[1] * (values.ndim - 1)) * known[part]
        total = w.sum(0)
        mean = (np.nan_to_num(values[part]) * w).sum(0) / np.maximum(total, 1e-9)
        result[frame] = np.where(known[frame], mean, np.nan)
    return result.astype(np.float32)


def _angle(landmarks: np.ndarray | None) -> float:
    """Give the roll of a face from its eyes, in radians; 0 without landmarks."""
    if landmarks is None:
        return 0.0
    across = landmarks[1] - landmarks[0]
    return float(np.arctan2(across[1], across[0]))


def _laid_out(track: PersonTrack, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes = np.full((num_frames, 4), np.nan)
    seen = np.zeros(num_frames, bool)
    angles = np.full(num_frames, np.nan)
    for frame in range(num_frames):
        box = track.box_at(frame)
        if box is not None:
            boxes[frame] = box
        if frame in track.detections:
            seen[frame] = True
            angles[frame] = _angle(track.detections[frame].landmarks)
    return smoothed(boxes), seen, np.nan_to_num(smoothed(angles))


def _mask_of(track: PersonTrack, shape: tuple[int, int, int]) -> np.ndarray | None:
    """Collect the masks of a track, uint8 [frame, height, width]; None when the finder gives none."""
    if not any(d.mask is not None for d in track.detections.values()):
        return None
    masks = np.zeros(shape, np.uint8)
    for frame, detection in track.detections.items():
        if detection.mask is not None:
            masks[frame] = np.round(np.asarray(detection.mask, np.float32).clip(0, 1) * 255)
    return masks


def locate(
    clip: torch.Tensor,
    references: list[np.ndarray],
    finder: Finder,
    *,
    min_similarity: float = -1.0,
    min_coverage: float = 0.25,
    settings: LinkSettings | None = None,
) -> Located:
    """Find the people of a clip and say who is which reference.

    `clip` uint8 [frame, 3, height, width]; `references` unit vectors. Raises NotPossible when a reference is not in the clip
    or seen in too few frames: a clip whose people are unknown cannot be damaged in known amounts.
    """
    tracks = link(finder.find(clip), settings)
    if not tracks:
        raise NotPossible("no person found")
    if len(tracks) < len(references):
        raise NotPossible(f"{len(tracks)} of {len(references)} people found")
    chosen, table = match_tracks(references, tracks, min_similarity)
    matched = [index for index in chosen if index is not None]
    if len(matched) < len(chosen):
        raise NotPossible("a reference matches nobody in the clip")
    num_frames, _, height, width = clip.shape
    laid = [_laid_out(tracks[j], num_frames) for j in matched]
    masks = [_mask_of(tracks[j], (num_frames, height, width)) for j in matched]
    zeros = np.zeros_like(references[0])
    embeddings = [tracks[j].embedding() for j in matched]
    located = Located(
        boxes=np.stack([boxes for boxes, _, _ in laid]),
        seen=np.stack([seen for _, seen, _ in laid]),
        angles=np.stack([angles for _, _, angles in laid]).astype(np.float32),
        embeddings=np.stack([zeros if e is None else e for e in embeddings]).astype(np.float32),
        similarity=np.array([table[i, j] for i, j in enumerate(matched)], np.float32),
        covers=getattr(finder, "covers", "face"),
        masks=np.stack(known) if len(known := [m for m in masks if m is not None]) == len(masks) else None,
    )
    if (located.coverage() < min_coverage).any():
        raise NotPossible(f"a person is seen in {located.coverage().min():.0%} of the frames only")
    return located

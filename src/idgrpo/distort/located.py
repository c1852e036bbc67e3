"""Where the people of a clip are: one smoothed track per reference, found once and kept on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from idgrpo.distort.contract import NotPossible
from idgrpo.people.boxes import area, iou
from idgrpo.people.contract import Finder, Levels, levels_of
from idgrpo.people.match import match_tracks
from idgrpo.people.track import LinkSettings, PersonTrack, link

Covers = Literal["face", "person"]


@dataclass(frozen=True)
class Located:
    """Hold the people of one clip, slot k = reference k.

    `boxes` float32 [slot, frame, 4] (NaN where unknown, interpolated over gaps), `seen` bool [slot, frame] (really detected),
    `angles` float32 [slot, frame] in radians, `embeddings` float32 [slot, d], `similarity` [slot] to the reference,
    `covers` what a box holds. `masks` uint8 0..255 [slot, frame, height, width] or None. `landmarks` float32 [slot, frame, 5, 2]
    in pixels (NaN where unknown), `portraits` float32 [slot, 4] boxes of the faces in the references (NaN where none was found),
    `references` float32 [slot, d] what the finder makes of the references themselves.
    """

    boxes: np.ndarray
    seen: np.ndarray
    angles: np.ndarray
    embeddings: np.ndarray
    similarity: np.ndarray
    covers: Covers = "face"
    masks: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    portraits: np.ndarray | None = None
    references: np.ndarray | None = None

    @property
    def num_slots(self) -> int:
        return self.boxes.shape[0]

    def coverage(self) -> np.ndarray:
        """Give the share of frames in which each person was detected, [slot]."""
        return self.seen.mean(axis=1)

    def save(self, path: Path) -> None:
        """Write as npz (masks compressed)."""
        names = ("masks", "landmarks", "portraits", "references")
        optional = {name: getattr(self, name) for name in names}
        known: dict[str, Any] = {name: values for name, values in optional.items() if values is not None}
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                boxes=self.boxes,
                seen=self.seen,
                angles=self.angles,
                embeddings=self.embeddings,
                similarity=self.similarity,
                covers=np.array(self.covers),
                **known,
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


def _laid_out(track: PersonTrack, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Give boxes [frame, 4], seen [frame], angles [frame] and landmarks [frame, 5, 2] of a track, smooth over time."""
    boxes = np.full((num_frames, 4), np.nan)
    seen = np.zeros(num_frames, bool)
    angles = np.full(num_frames, np.nan)
    landmarks = np.full((num_frames, 5, 2), np.nan)
    for frame in range(num_frames):
        box = track.box_at(frame)
        if box is not None:
            boxes[frame] = box
        if frame in track.detections:
            seen[frame] = True
            points = track.detections[frame].landmarks
            angles[frame] = _angle(points)
            if points is not None and np.shape(points) == (5, 2):
                landmarks[frame] = points
    return smoothed(boxes), seen, np.nan_to_num(smoothed(angles)), smoothed(landmarks)


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
    tracks = link(finder.find(clip), settings or LinkSettings.of(levels_of(finder)))
    if not tracks:
        raise NotPossible("no person found")
    if len(tracks) < len(references):
        raise NotPossible(f"{len(tracks)} of {len(references)} people found")
    chosen, table = match_tracks(references, tracks, min_similarity)
    matched = [index for index in chosen if index is not None]
    if len(matched) < len(chosen):
        raise NotPossible(
            f"nobody in the clip is as alike to the reference as {min_similarity:.2f}", slot=chosen.index(None)
        )
    num_frames, _, height, width = clip.shape
    laid = [_laid_out(tracks[j], num_frames) for j in matched]
    masks = [_mask_of(tracks[j], (num_frames, height, width)) for j in matched]
    zeros = np.zeros_like(references[0])
    embeddings = [tracks[j].embedding() for j in matched]
    located = Located(
        boxes=np.stack([boxes for boxes, *_ in laid]),
        seen=np.stack([seen for _, seen, *_ in laid]),
        angles=np.stack([angles for _, _, angles, _ in laid]).astype(np.float32),
        embeddings=np.stack([zeros if e is None else e for e in embeddings]).astype(np.float32),
        similarity=np.array([table[i, j] for i, j in enumerate(matched)], np.float32),
        covers=getattr(finder, "covers", "face"),
        masks=np.stack(known) if len(known := [m for m in masks if m is not None]) == len(masks) else None,
        landmarks=np.stack([landmarks for *_, landmarks in laid]),
        references=np.stack(references).astype(np.float32),
    )
    if (located.coverage() < min_coverage).any():
        worst = int(located.coverage().argmin())
        raise NotPossible(f"a person is seen in {located.coverage()[worst]:.0%} of the frames only", slot=worst)
    return located


def portrait_boxes(images: list[torch.Tensor], finder: Finder) -> np.ndarray:
    """Give the box of the largest person in each reference image, float32 [image, 4]; NaN where none is found."""
    boxes = np.full((len(images), 4), np.nan, np.float32)
    for number, image in enumerate(images):
        found = finder.find(image[None])[0]
        if found:
            boxes[number] = max((detection.box for detection in found), key=area)
    return boxes


def likeness(located: Located, finder: Finder, levels: Levels, clip: torch.Tensor, frames: list[int]) -> np.ndarray:
    """Measure how alike each person of a clip is to that person's reference, float64 [frame, slot] in 0..1.

    0 is what strangers reach, 1 the reference itself (the track, where the reference is not known); who is not found in the own
    place counts 0. NaN where the place is not known. Labels speak of references: against the track, a change that brings somebody
    nearer to the reference would count as a loss as well.
    """
    looks = located.embeddings if located.references is None else located.references
    result = np.full((len(frames), located.num_slots), np.nan)
    for row, found in enumerate(finder.find(clip[frames])):
        for slot in range(located.num_slots):
            place = located.boxes[slot, frames[row]]
            if np.isnan(place).any() or not located.seen[slot, frames[row]]:
                continue
            here = [d for d in found if d.embedding is not None and iou(d.box, tuple(place.tolist())) > 0.3]
            cosine = max((float(d.embedding @ looks[slot]) for d in here), default=-1.0)
            result[row, slot] = (cosine - levels.stranger) / (1 - levels.stranger)
    return result.clip(0, 1)

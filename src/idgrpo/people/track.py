"""Link detections of single frames into one track per person.

A frame-by-frame assignment on predicted position and appearance (as in SORT, arXiv 1602.00763, and DeepSORT, arXiv
1703.07402), then one pass that joins pieces of the same person. Appearance decides at crossings, position when there is
no embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from idgrpo.people.boxes import Box, area, between, center, iou, shifted, side
from idgrpo.people.contract import Detection, Levels


@dataclass
class PersonTrack:
    """Hold the detections of one person by frame."""

    detections: dict[int, Detection] = field(default_factory=dict)

    @property
    def frames(self) -> list[int]:
        return sorted(self.detections)

    @property
    def first(self) -> int:
        return min(self.detections)

    @property
    def last(self) -> int:
        return max(self.detections)

    def embedding(self) -> np.ndarray | None:
        """Average the embeddings, weighted by detection score, to a unit vector; None when there are none."""
        found = [(d.score, d.embedding) for d in self.detections.values() if d.embedding is not None]
        if not found:
            return None
        total = np.sum([max(score, 1e-3) * vector for score, vector in found], axis=0)
        return total / max(float(np.linalg.norm(total)), 1e-12)

    def box_at(self, frame: int) -> Box | None:
        """Give the box in a frame, interpolated over frames without a detection; None outside of the track."""
        if frame in self.detections:
            return self.detections[frame].box
        if not self.detections or not self.first < frame < self.last:
            return None
        before = max(f for f in self.detections if f < frame)
        after = min(f for f in self.detections if f > frame)
        share = (frame - before) / (after - before)
        return between(self.detections[before].box, self.detections[after].box, share)

    def velocity(self, window: int = 4) -> np.ndarray:
        """Estimate pixels per frame (x, y) from the last `window` detections."""
        frames = self.frames[-window:]
        if len(frames) < 2:
            return np.zeros(2)
        moved = center(self.detections[frames[-1]].box) - center(self.detections[frames[0]].box)
        return moved / (frames[-1] - frames[0])

    def predicted(self, frame: int) -> Box:
        """Extrapolate the last box to a later frame."""
        return shifted(self.detections[self.last].box, self.velocity() * (frame - self.last))


@dataclass(frozen=True)
class LinkSettings:
    """Say when two detections can be one person.

    `max_gap` frames without a detection are bridged by position; longer absences only by appearance (`rejoin_cosine`).
    `reach` is how far from the prediction a person may be, in box sides for one frame. `appearance` weighs cosine against closeness.
    `min_frames` and `min_score` drop ghosts.
    """

    max_gap: int = 12
    reach: float = 1.2
    appearance: float = 1.5
    min_cosine: float = 0.0
    rejoin_cosine: float = 0.5
    rejoin_lead: float = 0.1
    min_frames: int = 2
    min_score: float = 0.0

    @classmethod
    def of(cls, levels: Levels | None) -> "LinkSettings":
        """Give settings that fit a finder's levels, with `rejoin_cosine` between strangers and one person; without levels the defaults."""
        return cls() if levels is None else cls(rejoin_cosine=levels.middle)


def closeness(predicted: Box, box: Box, gap: int, reach: float) -> float:
    """Score 0..1 how well a box continues a prediction; 0 beyond reach (which grows with the gap) or at another size."""
    ratio = area(box) / max(area(predicted), 1e-6)
    if not 1 / 4 < ratio < 4:
        return 0.0
    distance = float(np.linalg.norm(center(predicted) - center(box))) / side(predicted)
    allowed = reach * (1 + 0.25 * (gap - 1))
    return max(iou(predicted, box), 1 - distance / allowed, 0.0)


def _cosine(first: np.ndarray | None, second: np.ndarray | None) -> float | None:
    if first is None or second is None:
        return None
    return float(first @ second) / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-12)


def _scores(
    tracks: Sequence[PersonTrack], found: Sequence[Detection], frame: int, settings: LinkSettings
) -> np.ndarray:
    """Score every track against every detection [track, detection]; -inf where they cannot belong together."""
    table = np.full((len(tracks), len(found)), -np.inf)
    for i, track in enumerate(tracks):
        gap, known, predicted = frame - track.last, track.embedding(), track.predicted(frame)
        last_box = track.detections[track.last].box
        for j, detection in enumerate(found):
            near = closeness(predicted, detection.box, gap, settings.reach)
            near = max(near, 0.9 * closeness(last_box, detection.box, gap, settings.reach))
            cosine = _cosine(known, detection.embedding)
            if near <= 0 or (cosine is not None and cosine < settings.min_cosine):
                continue
            table[i, j] = near + settings.appearance * (0.0 if cosine is None else cosine)
    return table


def _pairs(table: np.ndarray) -> list[tuple[int, int]]:
    """Choose one-to-one pairs with the largest total, never a forbidden one."""
    if not table.size:
        return []
    rows, columns = linear_sum_assignment(np.where(np.isfinite(table), table, -1e6), maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if np.isfinite(table[i, j])]


def _rejoin(tracks: list[PersonTrack], settings: LinkSettings) -> list[PersonTrack]:
    """Join pieces that never share a frame and look alike, best pair first, while it beats the runner-up clearly."""
    tracks = list(tracks)
    while True:
        table = np.full((len(tracks), len(tracks)), -np.inf)
        for i, early in enumerate(tracks):
            for j, late in enumerate(tracks):
                if i != j and early.last < late.first:
                    cosine = _cosine(early.embedding(), late.embedding())
                    table[i, j] = -np.inf if cosine is None else cosine
        if not table.size or table.max() < settings.rejoin_cosine:
            return tracks
        i, j = divmod(int(table.argmax()), table.shape[1])
        rivals = np.concatenate([np.delete(table[i], j), np.delete(table[:, j], i)])
        unclear = rivals.size and rivals.max() >= max(settings.rejoin_cosine, table[i, j] - settings.rejoin_lead)
        # Two candidates look the same: then only neighbours in time are trusted.
        if unclear and tracks[j].first - tracks[i].last > settings.max_gap:
            return tracks
        tracks[i] = PersonTrack({**tracks[i].detections, **tracks[j].detections})
        del tracks[j]


def link(detections: Sequence[Sequence[Detection]], settings: LinkSettings | None = None) -> list[PersonTrack]:
    """Link detections (one list per frame) into tracks, longest first.

    A person without detection for up to `max_gap` frames keeps the track; people who cross keep theirs by appearance, or
    by motion when there are no embeddings.
    """
    settings = settings or LinkSettings()
    tracks: list[PersonTrack] = []
    for frame, found in enumerate(detections):
        found = [d for d in found if d.score >= settings.min_score]
        active = [track for track in tracks if frame - track.last <= settings.max_gap]
        taken = set()
        for i, j in _pairs(_scores(active, found, frame, settings)):
            active[i].detections[frame] = found[j]
            taken.add(j)
        tracks.extend(PersonTrack({frame: d}) for j, d in enumerate(found) if j not in taken)
    joined = _rejoin(tracks, settings)
    kept = [track for track in joined if len(track.detections) >= min(settings.min_frames, len(detections))]
    return sorted(kept, key=lambda track: (-len(track.detections), track.first, track.detections[track.first].box))

"""What measures look at: what was seen in one video beside its references, and the one assignment that all share."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from idgrpo.people.contract import Levels
from idgrpo.people.match import assign

STRANGER = 0.25  # dlib's and ArcFace's networks put strangers below this cosine


@dataclass(frozen=True)
class Observation:
    """Hold the people found in a clip, one row a detection.

    frame int32 [d]; box float32 [d, 4] (left, top, right, bottom); score float32 [d]; track int32 [d], -1 when in no track;
    embedding float32 [d, e], unit length or NaN where the finder gave none; detail float32 [d], what there is to recognise
    (`face_details`); print float32 [t, 1024], the detail of each track's face (`copies.track_prints`). `figures` are numbers of
    the whole picture.
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
    detail: np.ndarray
    print: np.ndarray
    figures: dict[str, float]

    @property
    def num_tracks(self) -> int:
        return int(self.track.max()) + 1 if len(self.track) else 0


@dataclass(frozen=True)
class Match:
    """Hold one Hungarian assignment for the whole video; each reference and each track at most once.

    track_of int [n], -1 for a missing person; table float [n, t] mean cosine of a track's frames with a reference (-1 where a
    track has no embedding or is too short to count); similarity float [n], 0 for a missing person and never negative: a
    stranger is not worse than nobody.
    """

    track_of: np.ndarray
    table: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class Subject:
    """Hold what measures look at. references float [n, e]; second float [n, e] with NaN rows where there is no second
    photo.

    `wrong` are reference sets [m, e] of other cases, for the control. `prints` are the details of each person's photos,
    float32 [k, 1024] a person (`copies.photo_prints`).
    """

    observation: Observation
    references: np.ndarray
    second: np.ndarray | None = None
    wrong: tuple[np.ndarray, ...] = ()
    min_track_share: float = 0.1
    levels: Levels | None = None
    prints: tuple[np.ndarray, ...] = ()

    @property
    def num_people(self) -> int:
        return len(self.references)

    @cached_property
    def embedded(self) -> np.ndarray:
        """Tell which detections carry an embedding: bool [d]."""
        return ~np.isnan(self.observation.embedding).any(1)

    @cached_property
    def cosines(self) -> np.ndarray:
        """Compute cosines of all detections with all references, float [d, n]; NaN without embedding."""
        return _cosines(self.observation.embedding, self.references)

    @cached_property
    def match(self) -> Match:
        """Assign tracks to the references, once for the whole video."""
        return match_references(self, self.references)

    @cached_property
    def long_enough(self) -> np.ndarray:
        """Tell which tracks are seen often enough to be a person and not a ghost: bool [t]."""
        seen = self.observation
        lengths = np.bincount(seen.track[seen.track >= 0], minlength=seen.num_tracks)
        return lengths >= self.min_track_share * seen.num_frames

    @cached_property
    def assigned(self) -> np.ndarray:
        """List the rows of all tracks that are assigned to a reference: int [row]."""
        return np.flatnonzero(np.isin(self.observation.track, self.match.track_of[self.match.track_of >= 0]))

    @cached_property
    def swap_floor(self) -> float:
        """Give the cosine from which a frame counts as another person of the case: above what strangers reach, and at least
        half of what the best person of the video scores."""
        return max(self.levels.stranger if self.levels else STRANGER, 0.5 * float(self.match.similarity.max()))

    def frames_of(self, track: int) -> np.ndarray:
        """List the rows of a track in order of time; none for a missing person (track -1)."""
        if track < 0:
            return np.zeros(0, np.int64)
        rows = np.flatnonzero(self.observation.track == track)
        return rows[np.argsort(self.observation.frame[rows], kind="stable")]


def match_references(subject: Subject, references: np.ndarray) -> Match:
    """Assign tracks to references [n, e] so that the total similarity is largest."""
    seen, num = subject.observation, len(references)
    table = np.full((num, seen.num_tracks), -1.0)
    rows = np.flatnonzero((seen.track >= 0) & subject.embedded)
    if len(rows):
        cosines = (
            subject.cosines[rows] if references is subject.references else _cosines(seen.embedding[rows], references)
        )
        counts = np.bincount(seen.track[rows], minlength=seen.num_tracks)
        usable = (counts > 0) & subject.long_enough
        for person in range(num):
            sums = np.bincount(seen.track[rows], weights=cosines[:, person], minlength=seen.num_tracks)
            table[person, usable] = sums[usable] / counts[usable]
    chosen = assign(table)
    track_of = np.array([-1 if t is None or table[p, t] <= -1 else t for p, t in enumerate(chosen)], np.int64)
    similarity = np.array([max(0.0, table[p, t]) if t >= 0 else 0.0 for p, t in enumerate(track_of)])
    return Match(track_of, table, similarity)


def _cosines(embedding: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Compute cosines [d, n] of unit rows with references of any length."""
    if embedding.shape[1] != references.shape[1]:  # nothing embedded in this clip: a column of NaN stands in
        return np.full((len(embedding), len(references)), np.nan)
    norms = np.maximum(np.linalg.norm(references, axis=1), 1e-12)
    return embedding.astype(np.float64) @ (references / norms[:, None]).T.astype(np.float64)

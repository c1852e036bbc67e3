"""The tracks of a clip for the page: where each person is, and how similar to the reference, frame by frame."""

import numpy as np

from idgrpo.evaluate.document import Track
from idgrpo.evaluate.subject import Subject

PLACE_DIGITS, COSINE_DIGITS = 4, 3


def tracks_of(subject: Subject) -> list[Track]:
    """List the tracks that count (`Subject.long_enough`), the people asked for first, in the order of their references."""
    seen = subject.observation
    person_of = {int(track): person for person, track in enumerate(subject.match.track_of) if track >= 0}
    others = [t for t in range(seen.num_tracks) if t not in person_of and subject.long_enough[t]]
    return [_track(subject, track, person_of.get(track)) for track in [*person_of, *others]]


def _track(subject: Subject, track: int, person: int | None) -> Track:
    seen, rows = subject.observation, subject.frames_of(track)
    size = np.array([seen.width_px, seen.height_px] * 2, np.float64)
    boxes = np.clip(seen.box[rows] / size, 0, 1).round(PLACE_DIGITS).tolist()
    cosines = subject.cosines[rows]
    known = ~np.isnan(cosines).any(1)
    own = [] if person is None else [_rounded(v) for v in cosines[:, person]]
    nearest = [int(row.argmax()) if ok else None for row, ok in zip(cosines, known, strict=True)]
    return Track(
        person=person, frames=[int(f) for f in seen.frame[rows]], boxes=[tuple(b) for b in boxes],
        similarity=own, nearest=[] if person is None else nearest,
    )  # fmt: skip


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), COSINE_DIGITS)

"""How identity changes through the clip, and whether it was copied: drift, copy_paste and copied."""

import numpy as np

from idgrpo.evaluate.copies import agreement
from idgrpo.evaluate.measure import measure
from idgrpo.evaluate.subject import Subject

COPY_AGREEMENT = 0.91


@measure("Drift", "higher", "change", signed=True)
def drift(subject: Subject) -> float | None:
    """Similarity in the last third of the frames minus the first third, mean over people seen in both; None when
    nobody is. Negative: people stop looking like themselves.

    A person is who they are in the first third: a track that begins as another person of the case (above the level of
    swaps) is held against that reference. So two people who change places half-way lose, whichever half is longer.
    """
    seen, changes = subject.observation, []
    for person, track in enumerate(subject.match.track_of):
        rows = subject.frames_of(track)
        rows = rows[subject.embedded[rows]]
        frames = seen.frame[rows]
        early = subject.cosines[rows[frames < seen.num_frames / 3]]
        late = subject.cosines[rows[frames >= seen.num_frames * 2 / 3]]
        if len(early) and len(late):
            before, after = early.mean(0), late.mean(0)
            begins_as = before.argmax() if before.max() >= subject.swap_floor else person
            changes.append(after[begins_as] - before[begins_as])
    return float(np.mean(changes)) if changes else None


@measure("Copy-paste", "lower", "change", signed=True)
def copy_paste(subject: Subject) -> float | None:
    """(angle(generated, target) - angle(generated, reference)) / angle(target, reference), mean over people found;
    needs a second photo (the target), else None. +1: a copy of the reference; 0: as near to any photo of the person;
    -1: like the other photo.

    Source: the copy-paste measure of MultiID-Bench (WithAnyone, arXiv 2510.14975).
    """
    if subject.second is None:
        return None
    values = []
    for person, track in enumerate(subject.match.track_of):
        rows = subject.frames_of(track)
        rows = rows[subject.embedded[rows]]
        target, reference = subject.second[person], subject.references[person]
        if not len(rows) or np.isnan(target).any():
            continue
        generated = subject.observation.embedding[rows].astype(np.float64).mean(0)
        span = _angle(target, reference)
        if span > 1e-3:
            values.append((_angle(generated, target) - _angle(generated, reference)) / span)
    return float(np.mean(values)) if values else None


@measure("Copied", "lower", "change")
def copied(subject: Subject) -> float | None:
    """Share of the people found who are the reference picture itself: the detail of the face agrees with the photo's (a
    correlation of 0.91, averaged over frames), or its embedding is nearer to the photo's than half of what lies between two photos
    of that person (angles); None when nobody is found or nothing can be compared.

    Faces are compared in pixels where the finder gives landmarks: another photo of the session can be as near in embeddings as
    the reference made smaller. Another take of a person reached 0.88 at most (a frontal photo against itself mirrored), a frozen
    reference 0.95 and more. A photo that is only moved and turned is a copy, too. Without a second photo the finder's
    `same_person` level stands for the distance of two.
    """
    copies = [
        answer
        for person, track in enumerate(subject.match.track_of)
        if track >= 0 and (answer := _is_copy(subject, person, int(track))) is not None
    ]
    return float(np.mean(copies)) if copies else None


def _is_copy(subject: Subject, person: int, track: int) -> bool | None:
    """Tell whether a track is the reference picture of a person; None where nothing can be compared."""
    seen = subject.observation.print[track]
    agreed = agreement(seen, subject.prints[person]) if subject.prints else None
    span = None if subject.levels is None else float(np.arccos(np.clip(subject.levels.same_person, -1.0, 1.0)))
    if subject.second is not None and not np.isnan(subject.second[person]).any():
        span = _angle(subject.second[person], subject.references[person])
    if span is None:
        return None if agreed is None else agreed >= COPY_AGREEMENT
    near = float(np.arccos(np.clip(subject.match.table[person, track], -1.0, 1.0)))
    return near < 0.5 * span or (agreed is not None and agreed >= COPY_AGREEMENT)


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    """Give the angle between two vectors in radians."""
    norms = max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-12)
    return float(np.arccos(np.clip(first @ second / norms, -1.0, 1.0)))

"""How identity changes through the clip, and whether it was copied: drift, copy_paste and copied."""

import numpy as np

from idgrpo.evaluate.measure import measure
from idgrpo.evaluate.subject import Subject


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
    """Share of the people found whose track is nearer to the reference picture than half of what lies between two photos of
    that person (angles); None when nobody is found or nothing says how far two photos are apart.

    Another take of a person is as far from the reference as any photo; a frozen reference differs by what the video's
    encoding changed. Without a second photo the finder's `same_person` level stands for the distance.
    """
    level, copies = subject.levels.same_person if subject.levels else None, []
    for person, track in enumerate(subject.match.track_of):
        span = None if level is None else float(np.arccos(np.clip(level, -1.0, 1.0)))
        if subject.second is not None and not np.isnan(subject.second[person]).any():
            span = _angle(subject.second[person], subject.references[person])
        if track >= 0 and span is not None:
            near = float(np.arccos(np.clip(subject.match.table[person, track], -1.0, 1.0)))
            copies.append(near < 0.5 * span)
    return float(np.mean(copies)) if copies else None


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    """Give the angle between two vectors in radians."""
    norms = max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-12)
    return float(np.arccos(np.clip(first @ second / norms, -1.0, 1.0)))

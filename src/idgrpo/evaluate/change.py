"""How identity changes through the clip, and whether it was copied: drift and copy_paste."""

import numpy as np

from idgrpo.evaluate.measure import measure
from idgrpo.evaluate.subject import Subject


@measure("Drift", "higher", "change", signed=True)
def drift(subject: Subject) -> float | None:
    """Similarity in the last third of the frames minus the first third, mean over people seen in both; None when
    nobody is. Negative: people stop looking like themselves."""
    seen, changes = subject.observation, []
    for person, track in enumerate(subject.match.track_of):
        rows = subject.frames_of(track)
        rows = rows[subject.embedded[rows]]
        frames, cosines = seen.frame[rows], subject.cosines[rows, person]
        early, late = cosines[frames < seen.num_frames / 3], cosines[frames >= seen.num_frames * 2 / 3]
        if len(early) and len(late):
            changes.append(late.mean() - early.mean())
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


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    """Give the angle between two vectors in radians."""
    norms = max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-12)
    return float(np.arccos(np.clip(first @ second / norms, -1.0, 1.0)))

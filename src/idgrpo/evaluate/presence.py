"""Whether everybody is there, once, and stays who they are: coverage, count, swaps; how large and clear the faces are."""

import numpy as np

from idgrpo.evaluate.measure import measure
from idgrpo.evaluate.subject import Subject


@measure("Coverage", "higher", "presence")
def coverage(subject: Subject) -> float:
    """Share of frames in which the track of a person is seen, mean over people; a missing person counts 0."""
    seen = subject.observation
    shares = [
        len(np.unique(seen.frame[subject.frames_of(track)])) / seen.num_frames for track in subject.match.track_of
    ]
    return float(np.mean(shares))


@measure("Count accuracy", "higher", "presence")
def count_accuracy(subject: Subject) -> float:
    """Share of frames that show exactly as many people as the case has references.

    Honest occlusion costs a little here; read it as a difference to the base.
    """
    seen = subject.observation
    counts = np.bincount(seen.frame, minlength=seen.num_frames)
    return float((counts == subject.num_people).mean())


@measure("Swap rate", "lower", "presence")
def swap_rate(subject: Subject) -> float | None:
    """Share of face-frames of the assigned tracks whose best reference is not the one the track was assigned to; None
    for one person or when nobody is found.

    Two people who exchange identities half-way: 0.5. One person shown twice: 0.5. Faithful people: 0. A stranger is no
    swap: the frame must be more similar to the other reference than strangers are (the finder's level), and at least half
    as similar as the best person of the video is to theirs.
    """
    if subject.num_people < 2:
        return None
    wrong, total = 0, 0
    for person, track in enumerate(subject.match.track_of):
        rows = subject.frames_of(track)
        cosines = subject.cosines[rows[subject.embedded[rows]]]
        if len(cosines):
            wrong += int(((cosines.argmax(1) != person) & (cosines.max(1) >= subject.swap_floor)).sum())
            total += len(cosines)
    return wrong / total if total else None


@measure("Face area", "neutral", "presence")
def face_area(subject: Subject) -> float | None:
    """Mean area of the boxes of assigned tracks as a share of the frame; None when nobody is found.

    Watched because a reward that likes large faces is paid by zooming in.
    """
    seen, rows = subject.observation, subject.assigned
    if not len(rows):
        return None
    box = seen.box[rows]
    areas = np.maximum(box[:, 2] - box[:, 0], 0) * np.maximum(box[:, 3] - box[:, 1], 0)
    return float(areas.mean() / (seen.height_px * seen.width_px))


@measure("Face detail", "neutral", "presence")
def face_detail(subject: Subject) -> float | None:
    """Mean of the fine brightness steps inside the boxes of assigned tracks, in the direction that has fewer: what there is to
    recognise; None when nobody is found.

    Blur and darkness lower it, a wrong person does not. Where it fell together with identity or coverage, the picture may
    be worse and not the people.
    """
    rows = subject.assigned
    return float(subject.observation.detail[rows].mean()) if len(rows) else None

"""What other projects measure, so that numbers can be compared; every docstring names the known fault.

They read the same observations as ours: differences are differences of definition, not of the face network.
"""

import numpy as np

from idgrpo.evaluate.measure import measure
from idgrpo.evaluate.subject import Subject
from idgrpo.people.match import assign

VBENCH_FLOW_PX = 6.0  # at 256 pixels of the short side


@measure("FaceSim (OpenS2V, ConsisID)", "higher", "field")
def facesim_largest(subject: Subject) -> float | None:
    """Cosine of the *largest* face of each frame with its best reference, mean over frames that have a face.

    Faults: the second person is never looked at; frames without a face are skipped, so vanishing is free. (The projects
    compare with one reference; the best one is the kindest extension to several.)
    """
    seen, values = subject.observation, []
    areas = (seen.box[:, 2] - seen.box[:, 0]) * (seen.box[:, 3] - seen.box[:, 1])
    for frame in np.unique(seen.frame[subject.embedded]):
        rows = np.flatnonzero((seen.frame == frame) & subject.embedded)
        values.append(subject.cosines[rows[areas[rows].argmax()]].max())
    return float(np.mean(values)) if values else None


@measure("Best pair (Ingredients)", "higher", "field")
def best_pair(subject: Subject) -> float | None:
    """The best single reference-face cosine of each frame, mean over frames that have a face.

    Fault: a video with one of two people gets full marks.
    """
    seen, values = subject.observation, []
    for frame in np.unique(seen.frame[subject.embedded]):
        values.append(subject.cosines[(seen.frame == frame) & subject.embedded].max())
    return float(np.mean(values)) if values else None


@measure("Per-frame Hungarian (MultiHuman-Testbench)", "higher", "field")
def per_frame_hungarian(subject: Subject) -> float:
    """A fresh Hungarian assignment of faces to references in every frame, mean over people and frames; a missing face
    scores 0.

    Made for single images. Fault on video: people who exchange identities half-way are followed, so the swap costs
    nothing.
    """
    seen = subject.observation
    totals = np.zeros(seen.num_frames)
    for frame in np.unique(seen.frame[subject.embedded]):
        table = subject.cosines[(seen.frame == frame) & subject.embedded].T
        totals[frame] = sum(max(0.0, table[p, t]) for p, t in enumerate(assign(table)) if t is not None)
    return float(totals.mean() / subject.num_people)


@measure("Human identity (VBench-2.0)", "higher", "field")
def single_face_consistency(subject: Subject) -> float | None:
    """Cosine of the face with the face of the first counted frame, over frames with *exactly one* face; None without
    two such frames.

    Faults: a faithful video of two people counts no frame at all; the reference is never looked at.
    """
    seen = subject.observation
    counts = np.bincount(seen.frame, minlength=seen.num_frames)
    rows = np.flatnonzero((counts[seen.frame] == 1) & subject.embedded)
    if len(rows) < 2:
        return None
    rows = rows[np.argsort(seen.frame[rows])]
    vectors = seen.embedding[rows].astype(np.float64)
    return float((vectors[1:] @ vectors[0]).mean())


@measure("Dynamic degree (VBench)", "neutral", "field")
def dynamic_share(subject: Subject) -> float:
    """1 when the strongest 5 % of the flow exceeds a threshold (6 pixels at 256 pixels of the short side), else 0.

    Fault: a yes/no by threshold, blind to motion halved above it, and always 0 for small motions.
    """
    seen = subject.observation
    moved_px = seen.figures["flow_top_share"] * seen.height_px
    return float(moved_px > VBENCH_FLOW_PX * min(seen.height_px, seen.width_px) / 256)

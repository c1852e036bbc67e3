"""A reward that must not be paid: as alike as possible to anybody who was asked for."""

import numpy as np

from idgrpo.evaluate.measure import measure
from idgrpo.evaluate.subject import Subject


@measure("Alike to anybody", "higher", "plugin")
def anybody(subject: Subject) -> float:
    """Mean similarity of the people found to all references, whoever is whom; a missing person scores 0."""
    found = [subject.match.table[:, track].mean() for track in subject.match.track_of if track >= 0]
    return float(np.sum(found)) / subject.num_people

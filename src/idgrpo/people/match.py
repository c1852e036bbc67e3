"""Say which track is which reference: one Hungarian assignment for a whole video.

One assignment per video, not per frame: people who trade identities half-way must not be followed by the measure.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from idgrpo.people.track import PersonTrack


def similarity(references: Sequence[np.ndarray], tracks: Sequence[np.ndarray | None]) -> np.ndarray:
    """Compute cosines, float64 [reference, track]; a track without any embedding is unlike everybody (-1)."""
    table = np.full((len(references), len(tracks)), -1.0)
    for j, track in enumerate(tracks):
        if track is not None and np.linalg.norm(track) > 0:
            for i, reference in enumerate(references):
                norm = float(np.linalg.norm(reference) * np.linalg.norm(track))
                table[i, j] = float(reference @ track) / max(norm, 1e-12)
    return table


def assign(table: np.ndarray, minimum: float = -np.inf) -> list[int | None]:
    """Give each reference at most one track, each track to at most one reference, with the largest total similarity.

    `table` [reference, track]. A pairing below `minimum` is undone: that reference is missing from the video.
    """
    chosen: list[int | None] = [None] * table.shape[0]
    if table.size:
        rows, columns = linear_sum_assignment(table, maximize=True)
        for row, column in zip(rows, columns, strict=True):
            if table[row, column] >= minimum:
                chosen[row] = int(column)
    return chosen


def match_tracks(
    references: Sequence[np.ndarray], tracks: Sequence[PersonTrack], minimum: float = -np.inf
) -> tuple[list[int | None], np.ndarray]:
    """Match references to tracks; give the index of the track per reference and the table of similarities."""
    table = similarity(references, [track.embedding() for track in tracks])
    return assign(table, minimum), table

"""Votes as columns: small integer arrays, so that a million votes are counted in milliseconds."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from idgrpo.errors import DataError
from idgrpo.records.models import Vote

CLASSES = ("a", "b", "tie", "both_bad")  # skip is no opinion and not a class
MIRROR = np.array([1, 0, 2, 3])  # the class after the two clips change names
ANSWERS = (*CLASSES, "skip")
KINDS = ("plain", "gold", "repeat")


@dataclass(frozen=True)
class VoteTable:
    """One row a vote: indices into `pairs`, `annotators`, ANSWERS (`answer`) and KINDS (`kind`)."""

    pairs: list[str]
    annotators: list[str]
    pair: np.ndarray  # int64 [vote]
    annotator: np.ndarray  # int64 [vote]
    answer: np.ndarray  # int8 [vote]
    kind: np.ndarray  # int8 [vote]
    a_is_left: np.ndarray  # bool [vote]
    seconds: np.ndarray  # float64 [vote]

    def where(self, mask: np.ndarray) -> "VoteTable":
        """Give the rows of a mask; pairs and annotators keep their indices."""
        columns = (self.pair, self.annotator, self.answer, self.kind, self.a_is_left, self.seconds)
        return VoteTable(self.pairs, self.annotators, *(column[mask] for column in columns))

    @property
    def opinions(self) -> "VoteTable":
        """The rows that count towards a label: first votes that are neither skips nor gold nor repeats."""
        return self.where((self.kind == KINDS.index("plain")) & (self.answer < len(CLASSES)))

    def counts(self) -> np.ndarray:
        """Count answers by class: int64 [pair, class]; skips are not counted."""
        said = self.answer < len(CLASSES)
        flat = self.pair[said] * len(CLASSES) + self.answer[said]
        return np.bincount(flat, minlength=len(self.pairs) * len(CLASSES)).reshape(-1, len(CLASSES))


def vote_table(votes: Iterable[Vote], *, pairs: Iterable[str] = ()) -> VoteTable:
    """Read votes into columns; `pairs` fixes the order of the first pairs.

    A vote id met twice is the same vote delivered twice and counts once. Errors: DataError if it differs.
    """
    pair_index = {name: i for i, name in enumerate(pairs)}
    annotator_index: dict[str, int] = {}
    rows: list[tuple[int, int, int, int, bool, float]] = []
    met: dict[str, int] = {}
    for vote in votes:
        row = (
            pair_index.setdefault(vote.pair_id, len(pair_index)),
            annotator_index.setdefault(vote.annotator, len(annotator_index)),
            ANSWERS.index(vote.answer),
            KINDS.index(vote.kind),
            vote.a_is_left,
            vote.seconds,
        )
        if vote.vote_id in met:
            if rows[met[vote.vote_id]] != row:
                raise DataError(f"vote id {vote.vote_id!r} stands twice, with different contents")
            continue
        met[vote.vote_id] = len(rows)
        rows.append(row)
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    types: tuple[type, ...] = (np.int64, np.int64, np.int8, np.int8, np.bool_, np.float64)
    arrays: list[np.ndarray] = [np.asarray(column, dtype=kind) for column, kind in zip(columns, types, strict=True)]
    return VoteTable(list(pair_index), list(annotator_index), *arrays)

"""Strangers at hand: the people of the other clips of the data, with what is needed to paint them."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from idgrpo.distort.material import Material


@dataclass(frozen=True)
class GalleryEntry:
    """Name one person of one clip and where the crops are."""

    key: str
    person: str
    embedding: np.ndarray
    material: Path


class Gallery:
    """Choose strangers by identity and by likeness.

    Entries are kept in the order of their keys, so that the choice does not depend on who found them first. Whoever is more alike
    than `max_likeness` (cosine) is taken for the same person under another name: nobody says that two videos show different people.
    """

    def __init__(self, entries: list[GalleryEntry], max_likeness: float = 1.0):
        self.max_likeness = max_likeness
        self.entries = {entry.key: entry for entry in sorted(entries, key=lambda e: e.key)}

    def choose(self, persons: list[str], embedding: np.ndarray, hardness: float, draw: int) -> str | None:
        """Give the key of somebody who is none of `persons`.

        The candidates are the (1 - hardness) share most like `embedding` (never less than one): hardness 0 is anybody, 1 the
        closest look-alike.
        """
        others = [entry for entry in self.entries.values() if entry.person not in persons]
        table = [entry for entry in others if float(entry.embedding @ embedding) <= self.max_likeness + 1e-6]
        if not table:
            return None
        likeness = [float(entry.embedding @ embedding) for entry in table]
        order = np.argsort(np.negative(likeness), kind="stable")
        count = max(1, round(len(table) * (1 - hardness)))
        return table[int(order[draw % count])].key

    def material(self, key: str) -> Material:
        """Read a stranger's crops."""
        return _load(self.entries[key].material)


@lru_cache(maxsize=64)
def _load(path: Path) -> Material:
    return Material.load(path)

"""Who is wrong in each clip: the votes' answers per clip and person, counted while votes stream by."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from idgrpo.records.models import FATES, Fates, Vote

Place = tuple[str, str, int]  # pair, clip (a or b), place of the person among the references


class PeopleTally:
    """Counts fates; as for labels, repeats, gold pairs and skips are not counted, and a vote met twice counts once."""

    def __init__(self) -> None:
        self._counts: dict[Place, list[int]] = defaultdict(lambda: [0] * len(FATES))
        self._num_people: dict[str, int] = {}
        self._met: set[str] = set()

    def watch(self, votes: Iterable[Vote]) -> Iterator[Vote]:
        """Pass votes on and count what they say about people."""
        for vote in votes:
            counts = vote.people is not None and vote.kind == "plain" and vote.answer != "skip"
            if counts and vote.vote_id not in self._met:
                self._met.add(vote.vote_id)
                self._add(vote)
            yield vote

    def _add(self, vote: Vote) -> None:
        for side, fates in (vote.people or {}).items():
            self._num_people[vote.pair_id] = max(self._num_people.get(vote.pair_id, 0), len(fates))
            for place, fate in enumerate(fates):
                if fate is not None:
                    self._counts[vote.pair_id, side, place][FATES.index(fate)] += 1

    def counts(self) -> np.ndarray:
        """Give the answers by fate: int64 [clip and person, fate]."""
        return np.array(list(self._counts.values()), dtype=np.int64).reshape(-1, len(FATES))

    def of(self, pair_id: str) -> Fates | None:
        """Give the fate most voted for, per clip and person; None where the first place is shared or nobody answered.

        None for the whole pair where nobody answered anything.
        """
        num = self._num_people.get(pair_id, 0)
        found: Fates = {side: [self._fate((pair_id, side, i)) for i in range(num)] for side in ("a", "b")}
        return found if any(fate for fates in found.values() for fate in fates) else None

    def _fate(self, place: Place):
        counts = self._counts.get(place)
        if counts is None or counts.count(max(counts)) > 1:
            return None
        return FATES[counts.index(max(counts))]

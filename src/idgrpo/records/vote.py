"""A vote: one annotator's answer to one pair, as shown and as meant."""

from typing import Literal

from idgrpo.records.record import Record


class Vote(Record):
    """Votes are only ever appended; preferences are aggregated from them."""

    vote_id: str
    pair_id: str
    annotator: str
    answer: Literal["a", "b", "tie", "both_bad", "skip"]
    shown: Literal["left", "right", "tie", "both_bad", "skip"]
    a_is_left: bool
    seconds: float
    kind: Literal["plain", "gold", "repeat"] = "plain"
    reason: str | None = None
    time_utc: str

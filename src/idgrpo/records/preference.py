"""A preference: a pair with its label and where that came from."""

from typing import Literal

from pydantic import Field

from idgrpo.records.pair import Pair

LABELS = ("a", "b", "tie", "both_bad")


class Preference(Pair):
    """What reward models learn from."""

    label: Literal["a", "b", "tie", "both_bad"]
    votes: dict[str, int] = {}
    source: Literal["human", "synthetic", "judge"]
    distortion: str | None = None
    strength: float | None = Field(default=None, ge=0, le=1)
    split: Literal["train", "validation", "test"] | None = None

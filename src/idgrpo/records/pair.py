"""A pair: two videos of one case that somebody should compare."""

from typing import ClassVar

from idgrpo.records.record import AnyJson, Record
from idgrpo.records.reference import Reference


class Pair(Record):
    """Two videos of the same case. `origin` says where they come from and is never shown to annotators."""

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("video_a", "video_b")

    pair_id: str
    case_id: str
    prompt: str
    references: list[Reference]
    video_a: str
    video_b: str
    dimension: str = "identity"
    origin: dict[str, AnyJson] = {}

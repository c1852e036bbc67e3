"""A sample: one generated video of a case."""

from typing import ClassVar

from idgrpo.records.record import AnyJson, Record
from idgrpo.records.reference import Reference


class Sample(Record):
    """A video with what made it: base, policy (adapter), seed and sampler settings."""

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("video",)

    id: str
    case_id: str
    prompt: str
    references: list[Reference]
    video: str
    base: str
    policy: str | None = None
    seed: int
    sampler: dict[str, AnyJson] = {}

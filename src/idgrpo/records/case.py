"""A case: what should be generated, and who must be in it."""

from pydantic import Field

from idgrpo.records.record import Record
from idgrpo.records.reference import Reference


class Case(Record):
    """A prompt with its references; groups of GRPO are formed by case, never by equal text."""

    id: str
    prompt: str
    references: list[Reference] = Field(min_length=1)
    seed: int | None = None

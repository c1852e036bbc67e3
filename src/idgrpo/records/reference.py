"""A person a video must show, with photos."""

from typing import ClassVar

from pydantic import Field

from idgrpo.records.record import Record


class Reference(Record):
    """One person: the photos a generator sees, and second photos that only measures see."""

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("images", "second")

    person: str
    images: list[str] = Field(min_length=1)
    second: list[str] = []

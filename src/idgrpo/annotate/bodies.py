"""What requests carry, and how one is refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from idgrpo.records.models import Fate

MAX_PEOPLE = 64
Name = Annotated[str, StringConstraints(pattern=r"^[\w][\w .@+-]{0,39}$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Body(BaseModel):
    """Base of all bodies: unknown fields are refused, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NamedBody(Body):
    """Say who asks."""

    annotator: Name


class ClaimBody(NamedBody):
    """Ask for a pair; `held` are those the page has already."""

    held: list[Identifier] = Field([], max_length=16)


class PeopleBody(Body):
    """What became of each person, as shown: one answer or null per reference."""

    left: list[Fate | None] = Field(max_length=MAX_PEOPLE)
    right: list[Fate | None] = Field(max_length=MAX_PEOPLE)


class VoteBody(NamedBody):
    """Answer a pair, as shown; `vote_id` is the client's own, so that sending again is harmless.

    `reason` says why a pair is skipped; of another answer it is a comment.
    """

    assignment: Identifier
    vote_id: Identifier
    answer: Literal["left", "right", "tie", "both_bad", "skip"]
    seconds: float = Field(ge=0, le=86_400)
    reason: str | None = Field(None, max_length=500)
    people: PeopleBody | None = None


class UndoBody(NamedBody):
    """Take one's vote back."""

    vote_id: Identifier


class EnterBody(Body):
    """Use a one-time link."""

    token: Identifier

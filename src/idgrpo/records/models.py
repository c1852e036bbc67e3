"""What travels between stages, one line of JSON each: cases, samples, pairs, votes and preferences."""

import unicodedata
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from idgrpo.records.record import AnyJson, Record


class Reference(Record):
    """One person: the photos a generator sees, and second photos that only measures see."""

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("images", "second")

    person: str = Field(description="id of the person; the same person has the same id in all records")
    images: list[str] = Field(min_length=1, description="photos that the generator sees; paths, relative to the file")
    second: list[str] = Field(default=[], description="further photos, which only measures see")


MAX_ID_BYTES = 120
MAX_SEED = 2**63 - 1


def id_problem(text: str) -> str | None:
    """Say why a text cannot be a case id, or None. Ids become names of files, on other machines too."""
    if not text.strip():
        return "an id must not be empty"
    if text.startswith(".") or text != text.strip():
        return f"the id {text!r} must not begin with a dot, nor begin or end with a space"
    if any(sign in "/\\" for sign in text):
        return f"the id {text!r} must not hold a slash or a backslash"
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text):
        return f"the id {text!r} must not hold control characters or line breaks"
    if len(text.encode()) > MAX_ID_BYTES:
        return f"the id {text[:20]!r}... has {len(text.encode())} bytes; at most {MAX_ID_BYTES} are possible"
    return None


def _valid(text: str) -> str:
    if problem := id_problem(text):
        raise ValueError(problem)
    return text


CaseId = Annotated[str, AfterValidator(_valid)]


class Case(Record):
    """A prompt with its references; groups of GRPO are formed by case, never by equal text."""

    id: CaseId = Field(description="name of the case; it becomes part of file names")
    prompt: str = Field(description="what the people do")
    references: list[Reference] = Field(min_length=1, description="the people, in the order that the prompt names them")
    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="seed of its clips; none: that of the command"
    )


class Sample(Record):
    """A video with what made it: base, policy (adapter), seed and sampler settings."""

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("video",)

    id: str = Field(description="name of the clip: case and seed")
    case_id: str = Field(description="the case it was made of")
    prompt: str = Field(description="prompt of the case")
    references: list[Reference] = Field(description="people of the case")
    video: str = Field(description="path of the clip, relative to the file")
    base: str = Field(description="base that made it")
    policy: str | None = Field(default=None, description="policy that was put on the base; none: the base alone")
    seed: int = Field(description="seed of its noise")
    sampler: dict[str, AnyJson] = Field(default={}, description="settings of the sampler, with all defaults filled in")


class Pair(Record):
    """Two videos of the same case. `origin` says where they come from and is never shown to annotators."""

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("video_a", "video_b")

    pair_id: str = Field(description="name of the pair")
    case_id: str = Field(description="the case of both clips")
    prompt: str = Field(description="prompt of the case")
    references: list[Reference] = Field(description="people of the case")
    video_a: str = Field(description="path of clip a, relative to the file")
    video_b: str = Field(description="path of clip b, relative to the file")
    dimension: str = Field(default="identity", description="quality that is compared")
    origin: dict[str, AnyJson] = Field(default={}, description="where both clips come from; never shown to annotators")


LABELS = ("a", "b", "tie", "both_bad")
Fate = Literal["kept", "changed", "mixed", "missing"]
FATES: tuple[Fate, ...] = get_args(Fate)
"""What became of one person in one clip; `mixed`: blended with another person of the case, or shown as them."""
Fates = dict[Literal["a", "b"], list[Fate | None]]
"""Of clip a and clip b one fate per reference, in their order; None where nobody said."""


class Preference(Pair):
    """What reward models learn from."""

    label: Literal["a", "b", "tie", "both_bad"] = Field(
        description="the better clip, or tie, or both_bad (neither would do)"
    )
    votes: dict[str, int] = Field(default={}, description="number of votes for each answer")
    source: Literal["human", "synthetic", "judge"] = Field(
        description="who said it: people, a distortion (synthetic), or a model"
    )
    distortion: str | None = Field(default=None, description="of synthetic pairs: what was done to the worse clip")
    strength: float | None = Field(
        default=None, ge=0, le=1, description="of synthetic pairs: how strongly, from 0 to 1"
    )
    split: Literal["train", "validation", "test"] | None = Field(
        default=None, description="part of the data set; none: `train-rm` splits by people"
    )
    people: Fates | None = Field(
        default=None, description="what became of each person in clip a and in clip b, where annotators were asked"
    )

    @model_validator(mode="after")
    def _of_every_person(self) -> Self:
        for side, fates in (self.people or {}).items():
            if len(fates) != len(self.references):
                raise ValueError(f"people.{side} holds {len(fates)} fates for {len(self.references)} references")
        return self


class Vote(Record):
    """Votes are only ever appended; preferences are aggregated from them."""

    vote_id: str = Field(description="name of the vote")
    pair_id: str = Field(description="the pair")
    annotator: str = Field(description="who voted")
    answer: Literal["a", "b", "tie", "both_bad", "skip"] = Field(
        description="what was meant: the better clip, tie, both_bad, or skip"
    )
    shown: Literal["left", "right", "tie", "both_bad", "skip"] = Field(description="what was pressed")
    a_is_left: bool = Field(description="whether clip a was on the left")
    seconds: float = Field(description="time from showing to answer")
    kind: Literal["plain", "gold", "repeat"] = Field(
        default="plain", description="plain, gold (the answer is known), or repeat (shown before, sides swapped)"
    )
    reason: str | None = Field(default=None, description="why a pair was skipped, or a comment on the answer")
    time_utc: str = Field(description="when the vote was stored")
    people: Fates | None = Field(
        default=None, description="what became of each person in clip a and in clip b, where it was asked"
    )

"""What travels between stages, one line of JSON each: cases, samples, pairs, votes and preferences."""

import unicodedata
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from idgrpo.records.record import AnyJson, Record


class Reference(Record):
    """One person: the photos a generator sees, and second photos that only measures see."""

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("images", "second")

    person: str
    images: list[str] = Field(min_length=1)
    second: list[str] = []


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

    id: CaseId
    prompt: str
    references: list[Reference] = Field(min_length=1)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)


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


LABELS = ("a", "b", "tie", "both_bad")
Fate = Literal["kept", "changed", "mixed", "missing"]
FATES: tuple[Fate, ...] = get_args(Fate)
"""What became of one person in one clip; `mixed`: blended with another person of the case, or shown as them."""
Fates = dict[Literal["a", "b"], list[Fate | None]]
"""Of clip a and clip b one fate per reference, in their order; None where nobody said."""


class Preference(Pair):
    """What reward models learn from."""

    label: Literal["a", "b", "tie", "both_bad"]
    votes: dict[str, int] = {}
    source: Literal["human", "synthetic", "judge"]
    distortion: str | None = None
    strength: float | None = Field(default=None, ge=0, le=1)
    split: Literal["train", "validation", "test"] | None = None
    people: Fates | None = None

    @model_validator(mode="after")
    def _of_every_person(self) -> Self:
        for side, fates in (self.people or {}).items():
            if len(fates) != len(self.references):
                raise ValueError(f"people.{side} holds {len(fates)} fates for {len(self.references)} references")
        return self


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
    people: Fates | None = None

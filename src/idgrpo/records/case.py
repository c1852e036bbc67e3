"""A case: what should be generated, and who must be in it."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

from idgrpo.records.record import Record
from idgrpo.records.reference import Reference

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

"""Read a small JSON document whole, such as policy.json or a manifest: a value of the right shape, or an error."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from idgrpo.errors import DataError
from idgrpo.formats import ordinary_file
from idgrpo.records.jsonl import MAX_ERRORS, explain

MAX_BYTES = 256 * 2**20


def read_json(path: Path | str, shape: Any) -> Any:
    """Read a JSON document of a given shape: a pydantic model, or a type such as dict[str, int].

    A byte-order mark is skipped; numbers must be finite. Errors: DataError naming file and field, for a file that is
    missing, larger than 256 MiB, torn, nested too deeply, not UTF-8, or of another shape (the first 20 fields).
    """
    path = ordinary_file(path)
    text = _text(path)
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
    try:
        return TypeAdapter(shape).validate_python(value)
    except ValidationError as error:
        model = shape if isinstance(shape, type) and issubclass(shape, BaseModel) else None
        found = [explain(detail, model) for detail in error.errors()]
        raise DataError("\n".join(f"{path}: {problem}" for problem in found[:MAX_ERRORS])) from None


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: a document of {path.stat().st_size / 2**20:.0f} MiB; at most 256 are read")
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start + 1})") from None
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror})") from None


def parse_json(text: str | bytes) -> Any:
    """Read a JSON text; ValueError for all that is none, also for one that is nested too deeply for the parser."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None

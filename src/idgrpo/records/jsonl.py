"""JSON Lines in and out: streaming, with errors that name file, line and field, and whole-file atomic writes."""

import csv
import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from idgrpo.errors import DataError
from idgrpo.records.case import Case
from idgrpo.records.record import Record
from idgrpo.records.reference import Reference

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

R = TypeVar("R", bound=Record)
MAX_ERRORS = 20


@dataclass(frozen=True)
class RejectedLine:
    """A line that is no valid record, and why."""

    path: Path
    line: int
    text: str
    reason: str


def read_records(
    path: Path | str,
    model: type[R],
    *,
    unique: str | None = None,
    skip_invalid: Callable[[RejectedLine], None] | None = None,
    base_dir: Path | None = None,
) -> Iterator[R]:
    """Read records one by one, paths made absolute against the file's folder (or `base_dir`).

    Errors are gathered, up to the first 20, and raised together when the file ends or the twentieth is met; no record
    behind the first error is given. With `skip_invalid` bad lines go there instead.

    Args:
        unique: name of a field whose values may occur once only.

    Raises:
        DataError: file missing or unreadable, or a line that is not such a record.
    """
    path = Path(path)
    folder = Path(base_dir) if base_dir is not None else path.parent
    errors: list[str] = []
    seen: dict[str, int] = {}
    for number, text in _lines(path):
        problem, record = _parse(text, model)
        if record is not None and unique is not None:
            key = str(getattr(record, unique))
            if key in seen:
                problem, record = f"field '{unique}': '{key}' stands already in line {seen[key]}", None
            else:
                seen[key] = number
        if record is None:
            if skip_invalid is not None:
                skip_invalid(RejectedLine(path, number, text, problem))
                continue
            errors.append(f"{path}:{number}: {problem}")
            if len(errors) == MAX_ERRORS:
                break
        elif not errors:
            yield record.resolved(folder)
    if errors:
        more = f"\n  (stopped after the first {MAX_ERRORS})" if len(errors) == MAX_ERRORS else ""
        raise DataError("\n".join(errors) + more, fix="mend these lines; nothing was written")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, a JSON Lines file was expected") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _parse(text: str, model: type[R]) -> tuple[str, R | None]:
    try:
        return "", model.model_validate_json(text)
    except ValidationError as error:
        return "; ".join(_explain(detail, model) for detail in error.errors()), None


def _explain(detail: "ErrorDetails", model: type[Record]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "json_invalid":
        return f"not valid JSON: {detail['ctx']['error'] if 'ctx' in detail else detail['msg']}"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(detail["loc"][-1]), model.model_fields, n=1)
        return f"field '{where}': unknown" + (f" (did you mean '{near[0]}'?)" if near else "")
    if detail["type"] == "literal_error":
        return f"field '{where}': {detail['input']!r} is not known (known: {detail['ctx']['expected']})"
    return f"field '{where}': {detail['msg'][0].lower()}{detail['msg'][1:]}"


def write_records(path: Path | str, records: Iterable[Record]) -> int:
    """Write records with paths relative to the file's folder; the file appears whole or not at all. Returns their number."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    count = 0
    try:
        with draft.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(record.relative_to(path.parent).model_dump_json() + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return count


def read_cases(path: Path | str) -> Iterator[Case]:
    """Read cases from JSON Lines, or from CSV with the columns `ref_paths` (separated by ;) and `prompt`."""
    path = Path(path)
    if path.suffix.lower() != ".csv":
        yield from read_records(path, Case, unique="id")
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = {"ref_paths", "prompt"} - set(rows.fieldnames or ())
            if missing:
                raise DataError(f"{path}:1: column {', '.join(sorted(missing))} is missing (found: {rows.fieldnames})")
            for index, row in enumerate(rows):
                images = [part.strip() for part in (row["ref_paths"] or "").split(";") if part.strip()]
                if not images or not (row["prompt"] or "").strip():
                    raise DataError(f"{path}:{index + 2}: 'ref_paths' and 'prompt' must not be empty")
                people = [
                    Reference(person=f"{path.stem}-{index:04d}-{k}", images=[image]) for k, image in enumerate(images)
                ]
                case = Case(id=f"{path.stem}-{index:04d}", prompt=row["prompt"].strip(), references=people)
                yield case.resolved(path.parent)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None


def dump_json(path: Path, document: object) -> None:
    """Write one JSON document, atomically."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(draft, path)

"""JSON Lines in and out: streaming, with errors that name file, line and field, and whole-file atomic writes."""

import csv
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from idgrpo.errors import DataError
from idgrpo.records.atomic import replacing
from idgrpo.records.record import Record

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

R = TypeVar("R", bound=Record)
MAX_ERRORS = 20


@dataclass(frozen=True)
class RejectedLine:
    """A line that is no valid record, and why; bytes that are no UTF-8 stand as U+FFFD in `text`."""

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
    check: Callable[[R, int], str | None] | None = None,
    base_dir: Path | None = None,
) -> Iterator[R]:
    """Read records one by one, paths made absolute against the file's folder (or `base_dir`).

    Errors are gathered, up to the first 20, and raised together when the file ends or the twentieth is met; no record
    behind the first error is given. With `skip_invalid` bad lines go there instead.

    Args:
        unique: name of a field whose values may occur once only.
        check: says what is wrong with a record, paths absolute, and its line beyond its form (a file that is not
            there), or None.

    Raises:
        DataError: file missing or unreadable, or a line that is not such a record.
    """
    path = Path(path)
    folder = Path(base_dir) if base_dir is not None else path.parent
    errors = LineErrors(path)
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        problem, record = _parse(line, model)
        if record is not None and unique is not None:
            key = str(getattr(record, unique))
            if key in seen:
                problem, record = f"field '{unique}': '{key}' stands already in line {seen[key]}", None
            else:
                seen[key] = number
        if record is not None:
            record = record.resolved(folder)
            if check is not None and (wrong := check(record, number)):
                problem, record = wrong, None
        if record is None and skip_invalid is not None:
            skip_invalid(RejectedLine(path, number, line.decode(errors="replace").rstrip("\r\n"), problem))
        elif record is None:
            errors.add(number, problem)
        elif record is not None and not errors.found:
            yield record
    errors.raise_any()


class LineErrors:
    """Gathers what is wrong with a file, line by line, and raises all of it together, at the latest at the twentieth."""

    def __init__(self, path: Path):
        self.path = path
        self.found: list[str] = []

    def add(self, line: int | str, problem: str) -> None:
        """Note a problem of a line, or of an entry such as "entry 'x'"; DataError when it is the last that is told."""
        self.found.append(f"{self.path}:{'' if isinstance(line, int) else ' '}{line}: {problem}")
        if len(self.found) == MAX_ERRORS:
            self.raise_any()

    def raise_any(self) -> None:
        """Raise DataError if anything was noted."""
        if self.found:
            more = f"\n  (stopped after the first {MAX_ERRORS})" if len(self.found) == MAX_ERRORS else ""
            raise DataError("\n".join(self.found) + more, fix="mend these lines; nothing was written")


def _lines(path: Path, *, with_empty: bool = False) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if with_empty or line.strip():
                    yield number, line
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, a JSON Lines file was expected", fix="give the file in it") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(
            f"{str(path)!r}: the file cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None


def first_record_has(path: Path, field: str) -> bool:
    """Tell by its text whether the first record of a file has a field: which kind of records the file holds. Errors: DataError."""
    return next((f'"{field}"'.encode() in line for _, line in _lines(path)), False)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Give the lines of a text that are not empty, without space around them. Errors: DataError with the line."""
    for number, line in _lines(path):
        try:
            yield number, line.decode().strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: {_no_utf8(error)}") from None


def _parse(line: bytes, model: type[R]) -> tuple[str, R | None]:
    try:
        record = model.model_validate_json(line.decode())
    except UnicodeDecodeError as error:
        return _no_utf8(error), None
    except ValidationError as error:
        return "; ".join(explain(detail, model) for detail in error.errors()[:MAX_ERRORS]), None
    wrong = wrong_path(record)
    return (wrong, None) if wrong else ("", record)


def wrong_path(record: Record) -> str | None:
    """Name the first field that holds what cannot be the path of a file, or None."""
    wrong = (where for where, path in record.paths_by_field() if not path.strip() or "\0" in path)
    return next((f"field '{where}': not the name of a file" for where in wrong), None)


def _no_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8 text ({error.reason} at byte {error.start + 1} of the line)"


def explain(detail: "ErrorDetails", model: type[BaseModel] | None) -> str:
    """Say in a few words which field is wrong and why; `model` knows the names of the fields."""
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "json_invalid":
        return f"not valid JSON: {detail['ctx']['error'] if 'ctx' in detail else detail['msg']}"
    if detail["type"] == "extra_forbidden":
        known = _fields_at(model, detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        return f"field '{where}': unknown" + (f" (did you mean '{near[0]}'?)" if near else "")
    if detail["type"] == "literal_error":
        return f"field '{where}': {detail['input']!r:.100} is not known (known: {detail['ctx']['expected']})"
    if detail["type"] == "value_error":
        return f"field '{where}': {detail['ctx']['error']}"
    if not where:
        return f"{detail['msg'][0].lower()}{detail['msg'][1:]}"
    return f"field '{where}': {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _fields_at(model: type[BaseModel] | None, place: tuple[int | str, ...]) -> list[str]:
    """Name the fields that are known at a place inside a record, such as ("references", 0)."""
    owner = model
    for part in place:
        if isinstance(part, str) and owner is not None:
            owner = _record_in(owner.model_fields[part].annotation) if part in owner.model_fields else None
    return list(owner.model_fields) if owner is not None else []


def _record_in(annotation: Any) -> type[BaseModel] | None:
    """Find the record class inside an annotation such as list[Reference] | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _record_in(part)) is not None), None)


def write_records(path: Path | str, records: Iterable[Record]) -> int:
    """Write records with paths relative to the file's folder; the file appears whole or not at all. Returns their number."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as draft, draft.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(record.relative_to(path.parent).model_dump_json() + "\n")
            count += 1
    return count


def csv_rows(path: Path, errors: LineErrors) -> Iterator[tuple[int, list[str]]]:
    """Give each row that is not empty with the line it begins in: a quoted cell may hold line breaks."""

    def texts() -> Iterator[str]:
        for number, line in _lines(path, with_empty=True):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                errors.add(number, _no_utf8(error))
                yield line.decode(errors="replace")

    reader = csv.reader(texts(), strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            errors.add(begin, f"not valid CSV: {error}")
            continue
        if row:
            yield begin, row

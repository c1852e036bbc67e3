"""Whose photo is it? The same photo is the same person, whatever its file is called and in however many rows it stands."""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache

from idgrpo.errors import DataError
from idgrpo.records.models import Case, Reference


def person_of_photo(path: str) -> str:
    """Name the person of a photo that comes without a name, by its content: the same bytes give the same person.

    A file that is not there is named by its path; the stage that reads it reports it. Errors: DataError for one that
    cannot be read.
    """
    digest = photo_digest(path)
    return (
        f"photo-{digest[:16]}"
        if digest
        else f"missing-{hashlib.sha256(path.encode(errors='replace')).hexdigest()[:16]}"
    )


def photo_digest(path: str) -> str | None:
    """Give the sha256 of a photo, or None where there is no such file. Errors: DataError."""
    try:
        status = os.stat(path)
        return _digest(path, status.st_size, status.st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path!r}: the photo cannot be read ({getattr(error, 'strerror', None) or error})") from None


@lru_cache(maxsize=100_000)
def _digest(path: str, size_bytes: int, time_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PeopleCheck:
    """Holds who is on which photo through all lines of a file, and says where one photo is said to show two people.

    Photos are compared by their content, but only those of equal size are read.
    """

    def __init__(self) -> None:
        self._same: dict[str, str] = {}  # path -> the first path with the same content
        self._sizes: dict[int, list[str]] = {}
        self._owners: dict[str, tuple[str, int | str]] = {}

    def problem(self, references: Sequence[Reference], line: int | str) -> str | None:
        """Say what is wrong with the references of a line, paths absolute, or None."""
        people = [reference.person for reference in references]
        for index, reference in enumerate(references):
            if reference.person in people[:index]:
                return f"field 'references.{index}.person': '{reference.person}' stands twice in one case"
            for path in (*reference.images, *reference.second):
                try:
                    same = self._first_like(path)
                except DataError as error:
                    return f"field 'references.{index}': {error.message}"
                owner, where = self._owners.setdefault(same, (reference.person, line))
                if owner != reference.person:
                    place = "this case" if where == line else _place(where)
                    return (
                        f"field 'references.{index}': {path} is the photo of '{owner}' in {place}, so it cannot be "
                        f"'{reference.person}' too"
                    )
        return None

    def _first_like(self, path: str) -> str:
        if path not in self._same:
            try:
                size = os.stat(path).st_size
            except (OSError, ValueError):
                return path  # missing files are reported where they are read
            alike = self._sizes.setdefault(size, [])
            mine = photo_digest(path) if alike else None
            self._same[path] = next((other for other in alike if photo_digest(other) == mine), path)
            if self._same[path] == path:
                alike.append(path)
        return self._same[path]


class CaseCheck:
    """Says what is wrong with a case beyond its form, seen with the cases before it: ids twice, one photo of two people."""

    def __init__(self) -> None:
        self._ids: dict[str, int | str] = {}
        self._people = PeopleCheck()

    def __call__(self, case: Case, line: int | str) -> str | None:
        """Say what is wrong with a case, paths absolute, that stands in `line`, or None."""
        first = self._ids.setdefault(case.id, line)
        if first != line:
            return f"field 'id': '{case.id}' stands already in {_place(first)}"
        return self._people.problem(case.references, line)


def _place(line: int | str) -> str:
    return f"line {line}" if isinstance(line, int) else line

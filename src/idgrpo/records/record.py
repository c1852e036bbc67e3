"""The base of all records: frozen, no unknown fields, and paths that move with their file."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A line of a JSON Lines file. `PATH_FIELDS` names the fields that hold paths (a string or a list of them)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    PATH_FIELDS: ClassVar[tuple[str, ...]] = ()

    def resolved(self, folder: Path) -> Self:
        """Return a copy whose relative paths are absolute, seen from `folder`."""
        base = os.path.abspath(folder)
        return self.with_paths(lambda path: os.path.normpath(os.path.join(base, path)))

    def relative_to(self, folder: Path) -> Self:
        """Return a copy whose absolute paths are relative to `folder`."""
        base = os.path.abspath(folder)
        return self.with_paths(lambda path: os.path.relpath(path, base) if os.path.isabs(path) else path)

    def with_paths(self, change: Callable[[str], str]) -> Self:
        """Return a copy whose paths, also those of records inside it, are what `change` makes of them."""
        changed: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in self.PATH_FIELDS:
                changed[name] = [change(path) for path in value] if isinstance(value, list) else change(value)
            elif isinstance(value, list) and value and isinstance(value[0], Record):
                changed[name] = [item.with_paths(change) for item in value]
        return self.model_copy(update=changed)


def media_paths(record: Record) -> Iterator[str]:
    """Give every path that a record names, those of the records inside it too."""
    for name in type(record).model_fields:
        value = getattr(record, name)
        if name in record.PATH_FIELDS:
            yield from value if isinstance(value, list) else [value]
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, Record):
                    yield from media_paths(item)

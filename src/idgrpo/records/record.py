"""The base of all records: frozen, no unknown fields, and paths that move with their file."""

import os
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
        return self._with_paths(lambda path: os.path.normpath(os.path.join(base, path)))

    def relative_to(self, folder: Path) -> Self:
        """Return a copy whose absolute paths are relative to `folder`."""
        base = os.path.abspath(folder)
        return self._with_paths(lambda path: os.path.relpath(path, base) if os.path.isabs(path) else path)

    def _with_paths(self, change) -> Self:
        changed: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in self.PATH_FIELDS:
                changed[name] = [change(path) for path in value] if isinstance(value, list) else change(value)
            elif isinstance(value, list) and value and isinstance(value[0], Record):
                changed[name] = [item._with_paths(change) for item in value]
        return self.model_copy(update=changed)

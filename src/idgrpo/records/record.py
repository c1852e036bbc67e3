"""The base of all records: frozen, no unknown fields, finite numbers, and paths that move with their file."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue


def _finite(value: JsonValue) -> JsonValue:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(inner)
    return value


# Any JSON; pydantic's own type lets NaN through.
AnyJson = Annotated[JsonValue, AfterValidator(_finite)]


class Record(BaseModel):
    """A line of a JSON Lines file. `PATH_FIELDS` names the fields that hold paths (a string or a list of them)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    PATH_FIELDS: ClassVar[tuple[str, ...]] = ()

    def resolved(self, folder: Path) -> Self:
        """Return a copy whose relative paths are absolute, seen from `folder`."""
        base = os.path.abspath(folder)
        return self.with_paths(lambda path: os.path.normpath(os.path.join(base, path)))

    def relative_to(self, folder: Path) -> Self:
        """Return a copy whose absolute paths are relative to `folder`."""
        base = os.path.abspath(folder)
        return self.with_paths(lambda path: os.path.relpath(path, base) if os.path.isabs(path) else path)

    def media_paths(self) -> Iterator[str]:
        """Give every path that the record, or a record inside it, names; what is named twice comes twice."""
        return (path for _, path in self.paths_by_field())

    def paths_by_field(self) -> Iterator[tuple[str, str]]:
        """Give every path with its place, such as ("references.0.images.1", "anna.png")."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            for place, item in enumerate(value) if isinstance(value, list) else [("", value)]:
                where = f"{name}.{place}".rstrip(".")
                if isinstance(item, Record):
                    yield from ((f"{where}.{inner}", path) for inner, path in item.paths_by_field())
                elif name in self.PATH_FIELDS and item is not None:
                    yield where, item

    def with_paths(self, change: Callable[[str], str]) -> Self:
        """Return a copy whose paths, also those of records inside it, are what `change` makes of them."""

        def moved(name: str, value: Any) -> Any:
            if isinstance(value, list):
                return [moved(name, item) for item in value]
            if isinstance(value, Record):
                return value.with_paths(change)
            return change(value) if name in self.PATH_FIELDS and value is not None else value

        return self.model_copy(update={name: moved(name, getattr(self, name)) for name in type(self).model_fields})

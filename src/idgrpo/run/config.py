"""Configuration: frozen pydantic models from TOML and `--set a.b=value`; unknown keys are errors, all at once."""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from idgrpo.errors import UsageError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Config(BaseModel):
    """The base of all configurations: frozen, numbers are finite, and a key that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def load_config(
    cls: type[C],
    file: Path | str | None = None,
    sets: list[str] | None = None,
    base: C | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    fix: str = "`idgrpo config show STAGE` lists keys and defaults",
) -> C:
    """Build a configuration: defaults (or `base`), then the TOML file, then each `key.sub=value` in order, then `options`.

    `options` maps dotted keys to values; one that is None was not given. Values of `sets` are read as JSON (or TOML) where they are such, otherwise as text; where a field wants text, what
    stands behind the `=` is its text, so that `--set name=123` names something 123. `fix` says where the keys are described.

    Raises:
        UsageError: all problems together, each with its key and, for an unknown key, the nearest known one.
    """
    values: dict[str, Any] = base.model_dump(exclude_unset=True) if base is not None else {}
    texts: dict[tuple[str, ...], str] = {}
    said: dict[str, Any] = {}
    if file is not None:
        _merge(values, _read_toml(Path(file), fix))
    for item in sets or []:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {item}: expected key=value, such as --set optimizer.lr=1e-3")
        _merge(values, _nested(key.strip().split("."), _value(text)))
        _merge(said, _nested(key.strip().split("."), _value(text)))
        texts[tuple(key.strip().split("."))] = text.strip()
    for key, value in (options or {}).items():
        if value is not None:
            other = _at(said, key.split("."))
            if other is not None and other != value and str(other) != str(value):
                raise UsageError(
                    f"--set says that {key} is {other}, an option that it is {value}", fix="leave one of them out"
                )
            _merge(values, _nested(key.split("."), value))
    try:
        return _validated(cls, values, texts)
    except ValidationError as error:
        lines = [_explain(detail, cls) for detail in error.errors()]
        raise UsageError(
            ("configuration:" if file is None else f"configuration, {file}:") + "\n  " + "\n  ".join(lines),
            fix=fix,
        ) from None


def _validated(cls: type[C], values: dict[str, Any], texts: dict[tuple[str, ...], str]) -> C:
    """Validate; fields that want text and got a number from `--set` take it as it was written."""
    try:
        return cls.model_validate(_nulls(values, cls))
    except ValidationError as error:
        wanted = {detail["loc"] for detail in error.errors() if detail["type"] in ("string_type", "path_type")}
        plain = [place for place in texts if place in wanted]
        if not plain:
            raise
        for place in plain:
            _merge(values, _nested(list(place), texts[place]))
        return cls.model_validate(_nulls(values, cls))


def to_toml(
    config: Config,
    *,
    comments: bool = False,
    live: Mapping[str, Any] | None = None,
    here: Mapping[str, Any] | None = None,
) -> str:
    """Write a configuration as TOML that `load_config` reads back.

    TOML has no null: None is written as the text "none", which `load_config` takes for None where a field allows it.

    Args:
        comments: write the description of each setting above it.
        live: nested keys that are written as settings; all others become comments. None: all of them.
        here: what a setting that is none comes to, by dotted key; said in its comment.
    """
    lines: list[str] = []
    _toml_table(config, config.model_dump(mode="json"), (), lines, _Notes(comments, live, here or {}))
    return "\n".join(lines).strip() + "\n"


@dataclass(frozen=True)
class _Notes:
    """How `to_toml` comments."""

    comments: bool
    live: Mapping[str, Any] | None
    here: Mapping[str, Any]

    def above(self, path: tuple[str, ...], description: str | None) -> list[str]:
        said = self.here.get(".".join(path))
        notes = [description or ""] + ([] if said is None else [f"(none comes to {said} here)"])
        return [f"# {' '.join(filter(None, notes))}"] if self.comments and any(notes) else []

    def is_live(self, path: tuple[str, ...]) -> bool:
        found: Any = self.live
        for key in path if found is not None else ():
            found = found.get(key, _ABSENT) if isinstance(found, Mapping) else _ABSENT
        return found is not _ABSENT


_ABSENT = object()


def _toml_table(
    model: BaseModel | None, table: dict[str, Any], path: tuple[str, ...], lines: list[str], notes: _Notes
) -> None:
    fields = type(model).model_fields if model is not None else {}
    if path:
        about = " ".join((type(model).__doc__ or "").split()) if model is not None else ""
        lines += ["", *notes.above((), about), f"[{'.'.join(map(_toml_key, path))}]"]
    for key, value in table.items():
        if not isinstance(value, dict):
            place = (*path, key)
            lines += notes.above(place, fields[key].description if key in fields else None)
            is_text = value is None and _says_none(fields[key].annotation)  # "none" would mean another thing there
            mark = "" if notes.is_live(place) and not is_text else "# "
            lines.append(f"{mark}{_toml_key(key)} = {_toml_value(value)}")
    for key, value in table.items():
        if isinstance(value, dict):
            inner = getattr(model, key, None) if key in fields else None
            if not isinstance(inner, BaseModel):
                lines += notes.above((*path, key), fields[key].description if key in fields else None)
            _toml_table(inner if isinstance(inner, BaseModel) else None, value, (*path, key), lines, notes)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    text = json.dumps("none" if value is None else value, ensure_ascii=False)
    return text if isinstance(value, str) else text.replace("Infinity", "inf").replace("NaN", "nan")


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _nulls(values: dict[str, Any], cls: type[BaseModel]) -> dict[str, Any]:
    """Replace the text "none" by None where the field may be None, and has no choice of that name."""
    found = {}
    for key, value in values.items():
        annotation = cls.model_fields[key].annotation if key in cls.model_fields else None
        inner = _model_of(annotation)
        if isinstance(value, dict) and inner is not None:
            value = _nulls(value, inner)
        elif value == "none" and type(None) in get_args(annotation) and not _says_none(annotation):
            value = None
        found[key] = value
    return found


def _says_none(annotation: Any) -> bool:
    """Tell whether the text "none" is one of the choices of a field."""
    return any(part == "none" or _says_none(part) for part in get_args(annotation))


def _read_toml(path: Path, fix: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"configuration file {path} does not exist", fix=fix) from None
    except OSError as error:
        raise UsageError(f"configuration file {path} cannot be read: {error.strerror}", fix=fix) from None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{path} is not TOML: {reason}", fix=fix) from None


def _value(text: str) -> Any:
    for read in (json.loads, lambda raw: tomllib.loads(f"value = {raw}")["value"]):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    return text


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return value


def _at(values: Any, path: list[str]) -> Any:
    """Give what stands at a place of nested tables, None where nothing does."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _explain(detail: "ErrorDetails", cls: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] != "extra_forbidden":
        got = f" (got {detail['input']!r})" if not isinstance(detail["input"], dict) else ""
        message = detail["msg"].removeprefix("Value error, ") + got
        return f"{where}: {message}" if where else message  # of several settings together
    owner: Any = cls
    for part in detail["loc"][:-1]:
        owner = _model_of(owner.model_fields[part].annotation) if owner and part in owner.model_fields else None
    near = difflib.get_close_matches(str(detail["loc"][-1]), owner.model_fields if owner else [], n=1)
    return f"{where}: there is no such key" + (f"; did you mean '{near[0]}'?" if near else "")


def _model_of(annotation: Any) -> type[BaseModel] | None:
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)

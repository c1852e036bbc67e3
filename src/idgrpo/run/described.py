"""The settings of a model laid flat: key, values, default, unit and description of each; what `config show` and the reference print."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

UNIT_OF_ENDING = {
    "_gb_s": "GB/s", "_s": "seconds", "_px": "pixels", "_bytes": "bytes", "_gib": "GiB", "_every": "updates",
    "pixels": "pixels", "tflops": "TFLOP/s", "seconds": "seconds",
}  # fmt: skip
UNIT_OF_NAME = {
    "width": "pixels", "height": "pixels", "frames": "frames", "num_frames": "frames", "max_frames": "frames",
    "fps": "frames per second", "epochs": "epochs", "every": "updates", "seed": "seed",
}  # fmt: skip
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class Setting:
    """One setting: `key` is dotted, `values` says in words what it takes, `unit` is empty for texts, choices and switches."""

    key: str
    values: str
    default: Any
    unit: str
    description: str


@dataclass(frozen=True)
class Slot:
    """A group of settings under one key; the settings at the top have the key ""."""

    key: str
    about: str
    settings: tuple[Setting, ...]


def slots_of(model: type[BaseModel], key: str = "") -> Iterator[Slot]:
    """Give the settings of a model and of the models inside it, in their order; those of a list are called `key[]`."""
    inner: list[tuple[str, type[BaseModel]]] = []
    found: list[Setting] = []
    for name, field in model.model_fields.items():
        path = f"{key}.{name}".lstrip(".")
        part, is_list = model_in(field.annotation)
        if part is not None and not is_list:
            inner.append((path, part))
            continue
        about = field.description or (
            "" if part is None else f"a list; each entry holds the settings of {part.__name__}"
        )
        found.append(Setting(path, values_of(field), default_of(field), unit_of(name, field), about))
    yield Slot(key, " ".join((model.__doc__ or "").split()), tuple(found))
    for path, part in inner:
        yield from slots_of(part, path)


def model_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Give the model that a field holds, alone or as None or a list of them, and whether it is a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for part in get_args(annotation):
        found, _ = model_in(part)
        if found is not None:
            return found, get_origin(annotation) in (list, tuple)
    return None, False


def default_of(field: FieldInfo) -> Any:
    """Give the default of a field; PydanticUndefined where there is none."""
    return field.get_default(call_default_factory=True)


def unit_of(name: str, field: FieldInfo) -> str:
    """Give the unit of a number, from its name; a number without one is a count (whole) or a plain number."""
    kinds = _plain_types(field.annotation)
    if not kinds & {int, float}:
        return ""
    if name in UNIT_OF_NAME:
        return UNIT_OF_NAME[name]
    ending = next((unit for ending, unit in UNIT_OF_ENDING.items() if name.endswith(ending)), None)
    return ending or ("number" if float in kinds else "count")


def values_of(field: FieldInfo) -> str:
    """Say what a field takes, such as "whole number, at least 1" or "one of: none, group"."""
    bounds = [
        f"{word} {_number(getattr(mark, name))}"
        for mark in _marks(field)
        for name, word in BOUNDS.items()
        if getattr(mark, name, None) is not None
    ]
    return ", ".join([words(field.annotation), *dict.fromkeys(bounds)])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _marks(field: FieldInfo) -> list[Any]:
    """Give the limits of a field: its own, and those of a type that carries some."""
    marks: list[Any] = list(field.metadata)
    for part in get_args(field.annotation):
        for mark in get_args(part)[1:] if get_origin(part) is Annotated else ():
            marks += mark.metadata if isinstance(mark, FieldInfo) else [mark]
    return marks


def _plain_types(annotation: Any) -> set[type]:
    parts = get_args(annotation)
    if isinstance(annotation, type) and not parts:
        return {annotation}
    if get_origin(annotation) is Literal:
        return set()
    return {kind for part in parts for kind in _plain_types(part)}


def words(annotation: Any) -> str:
    """Say a type in words, such as "whole number or none"."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return words(parts[0])
    if origin is Literal:
        return f"one of: {', '.join(map(str, parts))}"
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is type(None) else words(part) for part in parts)
    if origin in (list, tuple):
        return f"list ({', '.join(dict.fromkeys(words(part) for part in parts if part is not Ellipsis))})"
    if origin is dict:
        return f"table ({words(parts[1])})"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    return names.get(annotation, getattr(annotation, "__name__", "anything"))


def default_text(value: Any) -> str:
    """Write a default as `config show` does; a value that must be given is called required."""
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(default_text, value))}]"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value) or '""'

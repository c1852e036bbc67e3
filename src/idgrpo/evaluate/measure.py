"""What a measure is: a function of a subject that says its title and which way is better."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Literal, Protocol, cast

from idgrpo.errors import UsageError
from idgrpo.evaluate import FIELD_MEASURES, MEASURES
from idgrpo.evaluate.document import Better, MeasureInfo
from idgrpo.evaluate.subject import Subject

Family = Literal["identity", "presence", "change", "picture", "control", "field", "plugin", "reward"]


class Measure(Protocol):
    """Give one number for one video, or None where the measure is not defined for it."""

    info: MeasureInfo

    def __call__(self, subject: Subject) -> float | None: ...


def measure(
    title: str, better: Better, family: Family, *, signed: bool = False
) -> Callable[[Callable[[Subject], float | None]], Measure]:
    """Mark a function as a measure; its name and the first paragraph of its docstring become its own."""

    def mark(function: Callable[[Subject], float | None]) -> Measure:
        text = " ".join((function.__doc__ or "").split("\n\n")[0].split())
        marked = cast(Measure, function)
        marked.info = MeasureInfo(function.__name__, title, better, family, text, signed)
        return marked

    return mark


def known_measures() -> dict[str, str]:
    """List names and import strings: ours, the field's, and those of installed plugins (entry points
    `idgrpo.measures`)."""
    plugins = {entry.name: entry.value for entry in entry_points(group="idgrpo.measures")}
    return {**MEASURES, **FIELD_MEASURES, **plugins}


def load_measures(names: list[str] | None = None) -> dict[str, Measure]:
    """Import measures (all known ones by default), by the names of their functions."""
    found = [load_measure(name) for name in (names if names is not None else known_measures())]
    return {one.info.name: one for one in found}


def load_measure(name: str) -> Measure:
    """Import a measure by name; an import string `module:function` is taken as it stands.

    Raises UsageError that lists what is known, or says what is wrong with the import string.
    """
    known = known_measures()
    target = known.get(name, name)
    if ":" not in target:
        raise UsageError(f"unknown measure {name!r} (known: {', '.join(sorted(known))})")
    module, _, attribute = target.partition(":")
    try:
        function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the measure {name} cannot be imported: {error}", fix="put its module on the Python path"
        ) from error
    if not hasattr(function, "info"):
        raise UsageError(f"{name} is not marked as a measure", fix="put @measure(..) of idgrpo.evaluate.measure on it")
    return cast(Measure, function)

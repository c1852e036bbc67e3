"""What a measure is: a function of a subject that says its title and which way is better."""

import logging
from collections.abc import Callable
from typing import Any, Literal, Protocol, cast

from idgrpo.errors import UsageError
from idgrpo.evaluate import FIELD_MEASURES, MEASURES
from idgrpo.evaluate.document import Better, MeasureInfo
from idgrpo.evaluate.subject import Subject
from idgrpo.plugins import installed, load

log = logging.getLogger(__name__)

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
    return {**installed("idgrpo.measures"), **MEASURES, **FIELD_MEASURES}


def load_measures(names: list[str] | None = None) -> dict[str, Measure]:
    """Import measures (all known ones by default), by the names of their functions."""
    if names is not None:
        found = [load_measure(name) for name in names]
    else:
        found = [load_measure(name) for name in (*MEASURES, *FIELD_MEASURES)]
        for name in installed("idgrpo.measures"):
            try:
                found.append(load_measure(name))
            except UsageError as error:  # a package that is broken stops nobody who did not ask for it
                log.warning("the measure %s is left out: %s", name, error.message)
    return {one.info.name: one for one in found}


def is_measure(text: str) -> bool:
    """Tell whether a text names a measure: a known one, or `module:function` of a function that is marked as one."""
    if text in known_measures() or ":" not in text or "/" in text:
        return text in known_measures()
    try:
        return is_marked(load(text, "the measure"))
    except UsageError:
        return False


def is_marked(found: Any) -> bool:
    """Tell whether something is marked with `@measure`; a reward may have an `info` of its own."""
    return isinstance(getattr(found, "info", None), MeasureInfo)


def load_measure(name: str) -> Measure:
    """Import a measure by name; an import string `module:function` is taken as it stands.

    Raises UsageError that lists what is known, or says what is wrong with the import string.
    """
    known = known_measures()
    target = known.get(name, name)
    if ":" not in target:
        raise UsageError(f"unknown measure {name!r} (known: {', '.join(sorted(known))})")
    function = load(target, "the measure")
    if not is_marked(function):
        raise UsageError(f"{name} is not marked as a measure", fix="put @measure(..) of idgrpo.evaluate.measure on it")
    return cast(Measure, function)

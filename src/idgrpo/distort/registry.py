"""The distortions and controls: a name, where it is, and what is known about it. Imports nothing heavy."""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Literal

from idgrpo.errors import UsageError
from idgrpo.plugins import installed, load

if TYPE_CHECKING:
    from idgrpo.distort.contract import Distortion

Family = Literal["identity", "degrade", "motion", "control"]


@dataclass(frozen=True)
class Entry:
    """Describe a distortion.

    `family`: identity changes who people are; degrade makes them unrecognisable; motion breaks time; control has no order
    (label tie). `weight` is its share in the default mix. `per_video` False: a measure that matches tracks once per video
    cannot see it. `graded`: two strengths of one draw are ordered. `steady` False: somebody changes within the clip, which can be
    seen without references. `less_alike` False: the worse side is not less alike to the reference.
    """

    target: str
    family: Family
    weight: float
    num_people: int = 1
    per_video: bool = True
    graded: bool = True
    steady: bool = True
    less_alike: bool = True
    needs_stranger: bool = False
    needs_generator: bool = False


_IDENTITY = "idgrpo.distort.identity:"
DISTORTIONS: dict[str, Entry] = {
    "swap": Entry(_IDENTITY + "swap", "identity", 0.0, 2, per_video=False),
    "swap_late": Entry(_IDENTITY + "swap_late", "identity", 2.0, 2, steady=False),
    "exchange": Entry(_IDENTITY + "exchange", "identity", 1.0, 2),
    "replace": Entry(_IDENTITY + "replace", "identity", 2.0, needs_stranger=True),
    "replace_alike": Entry(_IDENTITY + "replace_alike", "identity", 1.0, needs_stranger=True),
    "replace_late": Entry(_IDENTITY + "replace_late", "identity", 1.0, needs_stranger=True, steady=False),
    "blend": Entry(_IDENTITY + "blend", "identity", 1.5, 2),
    "merge": Entry(_IDENTITY + "merge", "identity", 0.0, 2),
    "drift": Entry(_IDENTITY + "drift", "identity", 1.0, needs_stranger=True, steady=False),
    "duplicate": Entry(_IDENTITY + "duplicate", "identity", 1.5, 2),
    "flicker": Entry(_IDENTITY + "flicker", "identity", 1.0, needs_stranger=True, steady=False),
    "attribute": Entry(_IDENTITY + "attribute", "identity", 1.5, needs_stranger=True),
    "drop": Entry(_IDENTITY + "drop", "identity", 1.0, steady=False),
    "occlude": Entry("idgrpo.distort.cover:occlude", "identity", 0.5),
    "paste": Entry("idgrpo.distort.cover:paste", "identity", 0.5, less_alike=False),
    "renoise": Entry(_IDENTITY + "renoise", "identity", 0.0, needs_stranger=True, graded=False, needs_generator=True),
    "blur_person": Entry("idgrpo.distort.degrade:blur_person", "degrade", 0.0),
    "downscale_person": Entry("idgrpo.distort.degrade:downscale_person", "degrade", 0.0),
    "recompress_person": Entry("idgrpo.distort.degrade:recompress_person", "degrade", 0.0),
    "warp_person": Entry("idgrpo.distort.degrade:warp_person", "degrade", 0.0),
    "freeze": Entry("idgrpo.distort.degrade:freeze", "motion", 0.0),
    "shuffle": Entry("idgrpo.distort.degrade:shuffle", "motion", 0.0),
    "control_seam": Entry("idgrpo.distort.controls:control_seam", "control", 0.25),
    "control_blur": Entry("idgrpo.distort.controls:control_blur", "control", 0.25),
    "control_recompress": Entry("idgrpo.distort.controls:control_recompress", "control", 0.25),
    "control_background": Entry("idgrpo.distort.controls:control_background", "control", 0.5),
    "control_cover": Entry("idgrpo.distort.controls:control_cover", "control", 0.25),
    "control_reblend": Entry("idgrpo.distort.controls:control_reblend", "control", 0.5),
}


@cache
def _plugins() -> dict[str, Entry]:
    """Read the installed plugins, once: looking through all packages takes 20 ms."""
    table = {}
    for name, target in installed("idgrpo.distortions").items():
        try:
            entry = load(target, "the distortion")
        except UsageError:  # who names it is told why; nobody else is stopped
            entry = None
        table[name] = entry if isinstance(entry, Entry) else Entry(target, "identity", 0.0)
    return table


def known() -> dict[str, Entry]:
    """Give the distortions of the house and those of installed plugins (entry point group `idgrpo.distortions`)."""
    return _plugins() | DISTORTIONS


def entry_of(name: str) -> Entry:
    """Look a distortion up; UsageError names the nearest one."""
    table = known()
    if name not in table:
        near = get_close_matches(name, table, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"unknown distortion {name!r}{hint} (known: {', '.join(table)})")
    return table[name]


def load_distortion(name: str) -> "Distortion":
    """Import a distortion's function."""
    return load(entry_of(name).target, "the distortion")

"""The report as a document: everything the page, the tables and the gates show. Pydantic only."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from idgrpo.errors import DataError

SCHEMA = "idgrpo-report/1"

Better = Literal["higher", "lower", "neutral"]


class Part(BaseModel):
    """Base of all parts: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class MeasureInfo:
    """Say how a measure is called and read.

    `definition` is the first paragraph of its docstring. `signed`: its zero is not the bottom of a scale, so percentages
    of it mean nothing.
    """

    name: str
    title: str
    better: Better
    family: str
    definition: str
    signed: bool = False


class Estimate(Part):
    """A mean over cases with its interval; low and high are None when there are too few cases to bound it."""

    value: float
    low: float | None = None
    high: float | None = None
    num_cases: int


class Comparison(Part):
    """A tuned variant against the base on the same cases and seeds; `difference` is tuned minus base.

    `win_rate`: share of cases that improved, by the measure's own direction (of a neutral measure: that rose), ties half.
    `verdict` looks at the corrected p-value and at which way is better; `too_few`: not even the clearest outcome of this
    number of cases could be significant.
    """

    base: float
    tuned: float
    difference: Estimate
    relative: Estimate | None
    win_rate: Estimate
    effect_size: float | None
    p_value: float
    p_holm: float | None
    detectable: float | None
    verdict: Literal["better", "worse", "higher", "lower", "unclear", "too_few"]


class Slice(Part):
    """A headline measure on a part of the cases."""

    variant: str
    measure: str = "identity"
    by: str
    group: str
    base: float
    tuned: float
    difference: Estimate


class Verdict(Part):
    """One line of the hacking panel."""

    variant: str
    name: str
    level: Literal["ok", "watch", "alarm", "unknown"]
    text: str
    figures: dict[str, float | None] = {}


class Track(Part):
    """Where one person of a clip is seen: `boxes` (left, top, right, bottom) in shares of the picture, one a frame of `frames`.

    `person` is the place of the reference that the track stands for, None for a person who was not asked for; `similarity`
    is the cosine with that reference and `nearest` the place of the most similar reference, both frame by frame.
    """

    person: int | None
    frames: list[int]
    boxes: list[tuple[float, float, float, float]]
    similarity: list[float | None] = []
    nearest: list[int | None] = []


class SampleDocument(Part):
    """One video with its measures. `people` are scores per reference, in their order, by measure or scorer.

    `persons` are the names of the people asked for; `tracks` and `fps` are empty in reports of before version 0.2.
    """

    variant: str
    case_id: str
    seed: int
    prompt: str
    video: str
    references: list[list[str]]
    values: dict[str, float | None]
    people: dict[str, list[float]] = {}
    occluded_share: float = 0.0
    persons: list[str] = []
    fps: float = 0.0
    num_frames: int = 0
    tracks: list[Track] = []

    @property
    def key(self) -> tuple[str, int]:
        """Name what the variants are paired by: case and seed."""
        return self.case_id, self.seed


@dataclass(frozen=True)
class Provenance:
    """What made a report: the command, its settings as TOML, and lines of lineage. Shown on the page, not in report.json."""

    command: str
    settings: str
    lineage: tuple[str, ...]


class VariantDocument(Part):
    name: str
    base: str
    policy: str | None
    num_samples: int


class Report(Part):
    """All numbers of one evaluation; the same inputs and settings give the same document.

    `headlines` are the measures to be read together: a gain is claimed when both rise. `headline` is the first of them.
    `created_utc` is read from reports of version 0.1.0 and never written: the manifest says when a report was made.
    """

    schema_name: str = SCHEMA
    title: str
    created_utc: str = Field(default="", exclude=True)
    finder: str
    headline: str
    headlines: list[str] = []
    reference_variant: str
    variants: list[VariantDocument]
    num_cases: int
    num_seeds: int
    measures: list[MeasureInfo]
    means: dict[str, dict[str, Estimate]]
    comparisons: dict[str, dict[str, Comparison]]
    slices: list[Slice] = []
    diagnostics: list[Verdict] = []
    power_note: str = ""
    reward_win_rate: dict[str, float] = {}
    notes: list[str] = []
    curves: dict[str, list[dict[str, JsonValue]]] = {}
    samples: list[SampleDocument]

    def pair(self) -> list[str]:
        """List the headline measures, the first first (reports of version 0.1.0 have one)."""
        return self.headlines or [self.headline]

    def info(self, name: str) -> MeasureInfo:
        """Give the description of a measure by name."""
        return next(m for m in self.measures if m.name == name)

    def relative_to(self, folder: Path) -> "Report":
        """Give a copy whose absolute paths of videos and photos are relative to `folder`."""
        base = os.path.abspath(folder)
        return self.with_paths(lambda path: os.path.relpath(path, base) if os.path.isabs(path) else path)

    def resolved(self, folder: Path) -> "Report":
        """Give a copy whose relative paths are absolute, seen from `folder`."""
        base = os.path.abspath(folder)
        return self.with_paths(lambda path: os.path.normpath(os.path.join(base, path)))

    def with_paths(self, change: Callable[[str], str]) -> "Report":
        changed = [
            s.model_copy(
                update={"video": change(s.video), "references": [[change(p) for p in paths] for paths in s.references]}
            )
            for s in self.samples
        ]
        return self.model_copy(update={"samples": changed})

    def tuned_variants(self) -> list[str]:
        """List the variants that are compared with the base."""
        return [v.name for v in self.variants if v.name != self.reference_variant]


def read_report(path: Path) -> Report:
    """Read a report.json (or the folder that holds it); DataError when it is not one."""
    file = path / "report.json" if path.is_dir() else path
    try:
        return Report.model_validate_json(file.read_bytes()).resolved(file.parent)
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror})", fix="give a report.json or a report artifact"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise DataError(f"{file}: not a report of this version: field {where!r}: {first['msg']}") from error

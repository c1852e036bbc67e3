"""The report as a document: everything the page, the tables and the gates show. Pydantic only."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from idgrpo.errors import DataError

SCHEMA = "idgrpo-report/1"


class Part(BaseModel):
    """Base of all parts: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MeasureDocument(Part):
    name: str
    title: str
    better: Literal["higher", "lower", "neutral"]
    family: str
    definition: str
    signed: bool = False


class Figure(Part):
    """A mean over cases with its interval."""

    value: float
    low: float | None = None
    high: float | None = None
    num_cases: int


class Comparison(Part):
    """A tuned variant against the base on the same cases and seeds; `difference` is tuned minus base.

    `verdict` looks at the corrected p-value and at which way is better.
    """

    base: float
    tuned: float
    difference: Figure
    relative: Figure | None
    win_rate: Figure
    effect_size: float | None
    p_value: float
    p_holm: float | None
    detectable: float | None
    verdict: Literal["better", "worse", "higher", "lower", "unclear"]


class Slice(Part):
    """The headline measure on a part of the cases."""

    variant: str
    by: str
    group: str
    base: float
    tuned: float
    difference: Figure


class Verdict(Part):
    """One line of the hacking panel."""

    variant: str
    name: str
    level: Literal["ok", "watch", "alarm", "unknown"]
    text: str
    figures: dict[str, float | None] = {}


class SampleDocument(Part):
    """One video with its measures. `people` are scores per reference, in their order, by measure or scorer."""

    variant: str
    case_id: str
    seed: int
    prompt: str
    video: str
    references: list[list[str]]
    values: dict[str, float | None]
    people: dict[str, list[float]] = {}
    occluded_share: float = 0.0


class VariantDocument(Part):
    name: str
    base: str
    policy: str | None
    num_samples: int


class Report(Part):
    """All numbers of one evaluation."""

    schema_name: str = SCHEMA
    title: str
    created_utc: str
    finder: str
    headline: str
    reference_variant: str
    variants: list[VariantDocument]
    num_cases: int
    num_seeds: int
    measures: list[MeasureDocument]
    means: dict[str, dict[str, Figure]]
    comparisons: dict[str, dict[str, Comparison]]
    slices: list[Slice] = []
    diagnostics: list[Verdict] = []
    power_note: str = ""
    reward_win_rate: dict[str, float] = {}
    notes: list[str] = []
    curves: dict[str, list[dict[str, JsonValue]]] = {}
    samples: list[SampleDocument]

    def info(self, name: str) -> MeasureDocument:
        """Give the description of a measure by name."""
        return next(m for m in self.measures if m.name == name)

    def tuned_variants(self) -> list[str]:
        """List the variants that are compared with the base."""
        return [v.name for v in self.variants if v.name != self.reference_variant]


def read_report(path: Path) -> Report:
    """Read a report.json (or the folder that holds it); DataError when it is not one."""
    file = path / "report.json" if path.is_dir() else path
    try:
        return Report.model_validate_json(file.read_bytes())
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror})", fix="give a report.json or a report artifact"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise DataError(f"{file}: not a report of this version: field {where!r}: {first['msg']}") from error

"""From the reports of all cells to one table: mean gains over seeds with paired bootstrap intervals, verdicts on the claims."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idgrpo.evaluate.compare import paired_cases
from idgrpo.evaluate.document import Estimate, Report
from idgrpo.evaluate.statistics import mean_interval
from idgrpo.study.cell import CellOutcome
from idgrpo.study.config import Cell, ClaimConfig, StudyConfig

Key = tuple[int, str]  # seed and case
Gains = dict[Key, float]


@dataclass(frozen=True)
class MeasureRow:
    """One measure of a cell: means over all seeds and cases, the gain over the base, and what lies between it and the first cell."""

    base: float
    tuned: float
    gain: Estimate
    to_first: Estimate | None
    by_seed: dict[int, float]


@dataclass(frozen=True)
class CellRow:
    """One cell: its measures, its compute, and the alarms of the report (name -> number of seeds)."""

    cell: str
    values: dict[str, str]
    measures: dict[str, MeasureRow]
    tflop: float
    alarms: dict[str, int]
    figures: dict[str, float | None]


@dataclass(frozen=True)
class ClaimRow:
    """What the study says on a claim: the difference of the gains decides it, or zero lies inside its interval."""

    text: str
    measure: str
    difference: Estimate | None
    verdict: str

    def sentence(self) -> str:
        """Say it in one plain sentence."""
        if self.difference is None:
            return f"{self.text}: not decided (no case has a value of {self.measure})."
        said = {"confirmed": "confirmed", "contradicted": "contradicted", "open": "not decided"}[self.verdict]
        return f"{self.text}: {said} ({self.measure}, difference of the gains {interval(self.difference)})."


class Table:
    """All numbers of a study; `samples` are the raw rows, one a case and seed and cell."""

    def __init__(
        self, study: StudyConfig, cells: Sequence[Cell], outcomes: Sequence[CellOutcome], reports: Sequence[Report]
    ):
        self.study, self.cells = study, list(cells)
        self.samples: list[dict[str, Any]] = []
        self.gains: dict[tuple[str, str], Gains] = {}
        self.lower_is_better = {info.name for info in reports[0].measures if info.better == "lower"}
        for outcome, report in zip(outcomes, reports, strict=True):
            self._take(outcome, report)
        self.rows = [self._row(cell, outcomes, reports) for cell in cells]
        self.claims = [self._claim(claim) for claim in study.claims]

    def _take(self, outcome: CellOutcome, report: Report) -> None:
        """Pair base and tuned by their case; several clips of a case are averaged first."""
        base, tuned = (
            {(s.case_id, s.seed): s.values for s in report.samples if s.variant == side} for side in ("base", "tuned")
        )
        for measure in self.study.measures:
            for case, old, new in zip(*paired_cases(base, tuned, measure), strict=True):
                self.gains.setdefault((outcome.cell, measure), {})[outcome.seed, case] = new - old
                row = {"cell": outcome.cell, "seed": outcome.seed, "case": case, "measure": measure}
                self.samples.append({**row, "base": float(old), "tuned": float(new)})

    def _row(self, cell: Cell, outcomes: Sequence[CellOutcome], reports: Sequence[Report]) -> CellRow:
        own = [
            (outcome, report) for outcome, report in zip(outcomes, reports, strict=True) if outcome.cell == cell.name
        ]
        alarms: dict[str, int] = {}
        for _, report in own:
            for verdict in report.diagnostics:
                if verdict.level == "alarm":
                    alarms[verdict.name] = alarms.get(verdict.name, 0) + 1
        return CellRow(
            cell.name,
            dict(cell.values),
            {
                measure: self._measure(cell.name, measure)
                for measure in self.study.measures
                if (cell.name, measure) in self.gains
            },
            float(np.mean([outcome.tflop for outcome, _ in own])),
            alarms,
            {name: _mean([outcome.figures[name] for outcome, _ in own]) for name in self.study.figures},
        )

    def _measure(self, cell: str, measure: str) -> MeasureRow:
        gains, first = self.gains[cell, measure], self.gains.get((self.cells[0].name, measure), {})
        own = [row for row in self.samples if (row["cell"], row["measure"]) == (cell, measure)]
        shared = [key for key in gains if key in first]
        seeds = sorted({seed for seed, _ in gains})
        return MeasureRow(
            base=float(np.mean([row["base"] for row in own])),
            tuned=float(np.mean([row["tuned"] for row in own])),
            gain=bounded(list(gains.values())),
            to_first=bounded([gains[key] - first[key] for key in shared])
            if shared and cell != self.cells[0].name
            else None,
            by_seed={seed: float(np.mean([gain for (of, _), gain in gains.items() if of == seed])) for seed in seeds},
        )

    def _claim(self, claim: ClaimConfig) -> ClaimRow:
        better = self._mean_gains(claim.better, claim.measure)
        worse = self._mean_gains(claim.worse, claim.measure) if claim.worse else dict.fromkeys(better, 0.0)
        sign = -1 if claim.measure in self.lower_is_better else 1
        differences = [sign * (better[key] - worse[key]) for key in better if key in worse]
        if not differences:
            return ClaimRow(claim.text, claim.measure, None, "open")
        found, verdict = bounded(differences), "open"
        if found.low is not None and found.high is not None:
            verdict = "confirmed" if found.low > 0 else "contradicted" if found.high < 0 else "open"
        return ClaimRow(claim.text, claim.measure, found, verdict)

    def _mean_gains(self, values: Mapping[str, str], measure: str) -> Gains:
        """Average the gains of all cells that have these values of axes, case by case."""
        chosen = [cell.name for cell in self.cells if all(cell.values[axis] == value for axis, value in values.items())]
        every = [self.gains.get((name, measure), {}) for name in chosen]
        shared = set.intersection(*map(set, every))
        return {key: float(np.mean([gains[key] for gains in every])) for key in sorted(shared)}

    def document(self) -> dict[str, Any]:
        """Give everything but the raw rows, for study.json."""
        rows = [
            asdict(row) | {"measures": {name: _plain(one) for name, one in row.measures.items()}} for row in self.rows
        ]
        claims = [
            asdict(claim)
            | {"difference": claim.difference and claim.difference.model_dump(), "sentence": claim.sentence()}
            for claim in self.claims
        ]
        return {
            "schema": "idgrpo-study/1",
            "title": self.study.title,
            "question": self.study.question,
            "paper": self.study.paper,
            "base": self.study.base,
            "seeds": list(self.study.seeds),
            "num_cases": self.study.held_out.num,
            "cells": rows,
            "claims": claims,
        }

    def markdown(self) -> str:
        """Write the table with its caption, the paper's own row, and a sentence for each claim."""
        study = self.study
        named = [name.rpartition(".")[2].replace("_", " ") for name in study.figures]
        heads = [
            "cell",
            "TFLOP",
            *(f"{measure}: base -> tuned, {self._change(measure)}" for measure in study.measures),
            *named,
            "alarms",
        ]
        lines = [f"**{study.title}**", ""] + ([study.question, ""] if study.question else [])
        lines += [f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
        for row in self.rows:
            cells = [row.cell, f"{row.tflop:.3g}"]
            for measure in study.measures:
                one = row.measures.get(measure)
                cells.append("" if one is None else f"{one.base:.3f} -> {one.tuned:.3f}, {interval(one.gain)}")
            cells += [_number(row.figures[name]) for name in study.figures]
            cells.append(
                ", ".join(f"{name} ({count} of {len(study.seeds)})" for name, count in row.alarms.items()) or "none"
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", f"*{study.base}; {len(study.seeds)} seeds of {study.held_out.num} held-out cases each; gains are means over seeds with "
                  "paired bootstrap intervals over cases (95 %); TFLOP: training by the cost model, scoring not counted.*"]  # fmt: skip
        if study.paper:
            lines += ["", f"The paper: {study.paper}"]
        return "\n".join(
            [*lines, *(["", *(f"- {claim.sentence()}" for claim in self.claims)] if self.claims else []), ""]
        )

    def _change(self, measure: str) -> str:
        return "change (lower is better)" if measure in self.lower_is_better else "gain"

    def draw(self, path: Path) -> None:
        """Draw every cell's gain with its interval, a panel a measure."""
        from matplotlib.figure import Figure

        measures = [m for m in self.study.measures if any(m in row.measures for row in self.rows)]
        size = (1.8 + 3.2 * len(measures), 1.2 + 0.35 * len(self.rows))
        figure = Figure(figsize=size, layout="constrained")
        places = list(range(len(self.rows)))[::-1]
        for panel, measure in enumerate(measures, 1):
            axes = figure.add_subplot(1, len(measures), panel)
            axes.axvline(0, color="#888888", linewidth=0.8)
            for place, row in zip(places, self.rows, strict=True):
                if (one := row.measures.get(measure)) is None:
                    continue
                if one.gain.low is not None and one.gain.high is not None:
                    axes.plot([one.gain.low, one.gain.high], [place, place], color="#4477aa", linewidth=2)
                axes.plot([one.gain.value], [place], "o", color="#4477aa", markersize=5)
                axes.plot(list(one.by_seed.values()), [place] * len(one.by_seed), "|", color="#222222", markersize=6)
            axes.set_title(f"{measure}: {self._change(measure)}", fontsize=9)
            axes.set_yticks(places, [row.cell for row in self.rows] if panel == 1 else [""] * len(places), fontsize=8)
            axes.tick_params(labelsize=8)
        figure.savefig(path, dpi=120, metadata={"Software": None})


def bounded(values: Sequence[float]) -> Estimate:
    """Bound the mean of paired differences over cases."""
    return mean_interval(np.array(values, np.float64))


def interval(found: Estimate) -> str:
    """Write a difference with its interval."""
    if found.low is None or found.high is None:
        return f"{found.value:+.3f} (too few cases)"
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _mean(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if known else None


def _number(figure: float | None) -> str:
    if figure is None:  # the step was left out
        return ""
    return f"{figure:.0f}" if figure.is_integer() else f"{figure:.3f}"


def _plain(row: MeasureRow) -> dict[str, Any]:
    return {
        "base": row.base,
        "tuned": row.tuned,
        "gain": row.gain.model_dump(),
        "to_first": None if row.to_first is None else row.to_first.model_dump(),
        "by_seed": row.by_seed,
    }

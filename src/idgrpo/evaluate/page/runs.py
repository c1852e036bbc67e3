"""The training runs behind the policies: curves with a band over seeds, held-out measures first, and no plots of noise."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from idgrpo.evaluate.document import Report
from idgrpo.evaluate.page.charts import Line, curve

SEED = re.compile(r"[-_. /]?\bseed[-_]?\d+(?=(@v\d+)?$)|(?<=[-_. ])s\d+(?=(@v\d+)?$)")
HELD_OUT = "eval_"
SHOWN = (
    "reward_mean",
    "kl",
    "clip_share",
    "ratio_mean",
    "advantage_abs_mean",
    "zero_variance_share",
    "grad_norm",
    "loss",
)
SET_BEFORE = (
    "step",
    "update",
    "time",
    "seconds",
    "lr",
    "learning_rate",
    "adam_eps",
    "passes",
    "epoch",
)  # nothing to learn from
MAX_CURVES = 12
FEWEST_ROWS, NUM_BLOCKS, LEVEL = 8, 4, 0.05

Rows = Sequence[Mapping[str, Any]]


def curves(report: Report) -> str:
    """Draw the runs, those that differ in their seed together."""
    parts = []
    for name, runs in grouped(report.curves).items():
        lines = [line for key in _keys(runs) if (line := joined(runs, key))]
        drawn = [line for line in lines if line.dots or has_trend([y for _, y in line.points])][:MAX_CURVES]
        charts = "".join(curve(line, number % 4) for number, line in enumerate(drawn))
        seeds = (
            f" <small>{len(runs)} seeds; the band goes from the lowest to the highest</small>" if len(runs) > 1 else ""
        )
        if lines:
            parts.append(
                f"<h3>{escape(name)}{seeds}</h3><div class=curves>{charts}</div>{_flat([x for x in lines if x not in drawn])}"
            )
    return f"<section><h2>The run</h2>{''.join(parts)}</section>" if parts else ""


def grouped(curves: Mapping[str, Rows]) -> dict[str, list[Rows]]:
    """Put runs together whose names differ only in a seed, such as policy/a-seed0@v1 and policy/a-seed1@v1."""
    groups: dict[str, list[Rows]] = {}
    names = {name: SEED.sub("", name) for name in curves}
    shared = [*names.values()]
    for name, rows in curves.items():
        groups.setdefault(names[name] if shared.count(names[name]) > 1 else name, []).append(rows)
    return groups


def _keys(runs: Sequence[Rows]) -> list[str]:
    """List figures: those of held-out cases, then those worth watching, then the rest."""
    names = [k for k in dict.fromkeys(k for rows in runs for row in rows for k in row) if k not in SET_BEFORE]

    def place(name: str) -> int:
        if name.startswith(HELD_OUT):
            return -1
        return next((i for i, start in enumerate(SHOWN) if name.startswith(start)), len(SHOWN))

    return sorted(names, key=place)


def joined(runs: Sequence[Rows], key: str) -> Line | None:
    """Average a figure over runs where all have it, with the lowest and highest; None below three different values."""
    series = [_series(rows, key) for rows in runs]
    steps = sorted(set.intersection(*(set(one) for one in series)))
    table = [[one[step] for one in series] for step in steps]
    means = [sum(values) / len(values) for values in table]
    if len(steps) < 3 or len(set(means)) < 2:
        return None
    band = [(min(values), max(values)) for values in table] if len(runs) > 1 else []
    held_out = key.startswith(HELD_OUT)
    title = f"held-out {key.removeprefix(HELD_OUT)}" if held_out else key
    return Line(title.replace("_", " "), list(zip(steps, means, strict=True)), band, held_out)


def _series(rows: Rows, key: str) -> dict[float, float]:
    found = {}
    for index, row in enumerate(rows):
        step, value = row.get("step"), row.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
            found[float(step) if isinstance(step, int | float) else float(index)] = float(value)
    return found


def has_trend(values: Sequence[float]) -> bool:
    """Tell a curve that moves from noise: the means of four parts of the run differ (one-way analysis of variance, 5 %)."""
    if len(values) < FEWEST_ROWS:
        return False
    from scipy.stats import f_oneway

    blocks = np.array_split(np.asarray(values, np.float64), NUM_BLOCKS)
    if all(np.ptp(block) < 1e-12 for block in blocks):
        return True  # steps without any noise
    return float(f_oneway(*blocks).pvalue) < LEVEL


def _flat(lines: Sequence[Line]) -> str:
    """Say in a folded table what is not drawn because it does not differ from noise."""
    if not lines:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(line.title)}</th><td>{line.points[0][1]:.4g}</td><td>{line.points[-1][1]:.4g}</td>'
        f"<td>{np.mean([y for _, y in line.points]):.4g}</td></tr>"
        for line in lines
    )
    head = "".join(f'<th scope="col">{h}</th>' for h in ("figure", "first", "last", "mean"))
    return (
        f"<details><summary>{len(lines)} figures without a trend, or with too few updates to tell one from noise</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Figures without a trend"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )

"""The curves of a run as one picture, drawn from its metrics; seconds are left out, so equal runs give equal bytes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

# title -> figures drawn in it; a panel without any of them is left out
PANELS = {
    "reward in training": ("reward_mean",),
    "held-out": ("eval_identity", "eval_worst"),
    "KL to the reference": ("kl",),
    "gradient norm": ("grad_norm",),
    "ratio": ("ratio_min", "ratio_mean", "ratio_max"),
    "share of clipped pairs": ("clip_share_high", "clip_share_low"),
}
COLOURS = ("#4477aa", "#ee6677", "#228833")


def draw_curves(rows: Iterable[Row], path: Path) -> None:
    """Write one PNG: reward with its spread inside groups, held-out identity, KL, gradient norm, ratio and clipping."""
    from matplotlib.figure import Figure

    rows = list(rows)
    known = {title: lines for title, names in PANELS.items() if (lines := _lines(rows, names))}
    num_across = min(len(known), 3) or 1
    num_down = -(-len(known) // num_across) or 1
    figure = Figure(figsize=(4 * num_across, 2.6 * num_down), layout="constrained")
    for place, (title, lines) in enumerate(known.items(), 1):
        axes = figure.add_subplot(num_down, num_across, place)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("update", fontsize=8)
        axes.tick_params(labelsize=8)
        for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
            dotted = "." if len(points) < 20 else None  # few points, and a single one, would not be seen as a line
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, marker=dotted, label=name)
        if "reward_mean" in lines:
            _draw_spread(axes, rows)
        if len(lines) > 1:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _lines(rows: list[Row], names: Iterable[str]) -> dict[str, list[tuple[int, float]]]:
    """Give (update, value) of each figure that was measured; what was not finite stands in the metrics as text."""
    found = {
        name: [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))] for name in names
    }
    return {name: points for name, points in found.items() if points}


def _draw_spread(axes: Any, rows: list[Row]) -> None:
    known = [row for row in rows if all(isinstance(row.get(f"reward_{n}"), (int, float)) for n in ("mean", "std"))]
    low, high = ([row["reward_mean"] + sign * row["reward_std"] for row in known] for sign in (-1, 1))
    axes.fill_between([row["step"] for row in known], low, high, color=COLOURS[0], alpha=0.15, linewidth=0)

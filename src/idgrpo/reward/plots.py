"""Pictures of a reward model's card: calibration curve, accuracy by kind of pair, probes."""

from pathlib import Path
from typing import Any

from idgrpo.reward.table import KINDS

DECIDED, WITH_TIES = "#4477aa", "#ccbb44"


def draw_card(card: dict, path: Path) -> None:
    """Write one PNG about people who were held out: stated against observed win rate, accuracy by kind, probes."""
    from matplotlib.figure import Figure

    part = "test" if card["test"]["num_decided"] else "validation"
    bars = [("all", card[part])]
    bars += [(f"{title}: {value}", row) for key, title in KINDS for value, row in card[part][f"by_{key}"].items()]
    figure = Figure(figsize=(12, max(5, 0.34 * len(bars))), layout="constrained")
    panels = figure.subplot_mosaic([["calibration", "kinds"], ["probes", "kinds"]], width_ratios=(1, 1.4))
    _draw_calibration(panels["calibration"], card[part], part)
    _draw_kinds(panels["kinds"], bars, card["tie_threshold"])
    probes = card["probes"]
    panels["probes"].barh([f"{name} ({row['num_clips']})" for name, row in probes.items()],
                          [row["pass_rate"] for row in probes.values()], color="#228833")  # fmt: skip
    panels["probes"].axvline(0.9, color="0.5", linewidth=1)
    panels["probes"].set(xlim=(0, 1), xlabel="probes passed")
    panels["probes"].invert_yaxis()
    figure.savefig(path, dpi=110)


def _draw_calibration(axes: Any, figures: dict, part: str) -> None:
    bins = figures["calibration"]
    axes.plot([0.5, 1], [0.5, 1], color="0.7", linewidth=1)
    axes.plot([b["stated"] for b in bins], [b["observed"] for b in bins], marker="o", color=DECIDED)
    axes.set(xlabel="stated probability that the preferred side wins", ylabel="observed share", ylim=(0, 1.02))
    error = figures["calibration_error"]
    mean = "" if error is None else f", mean error {error:.3f}"
    axes.set_title(f"{part} people, {figures['num_decided']} decided pairs{mean}", fontsize=10)


def _draw_kinds(axes: Any, bars: list[tuple[str, dict]], threshold: float) -> None:
    for key, count, shift, colour, label in (
        ("accuracy_decided", "num_decided", -0.2, DECIDED, "decided pairs"),
        ("accuracy_with_ties", "num_pairs", 0.2, WITH_TIES, f"with ties (threshold {threshold:.2f})"),
    ):
        known = [(place, row) for place, (_, row) in enumerate(bars) if row[key] is not None and row[count]]
        axes.barh([place + shift for place, _ in known], [row[key] for _, row in known], 0.4, color=colour, label=label)
    axes.set_yticks(range(len(bars)), [f"{name} ({row['num_decided']} of {row['num_pairs']})" for name, row in bars])
    axes.axvline(0.5, color="0.5", linewidth=1)
    axes.set(xlim=(0, 1), xlabel="accuracy")
    axes.legend(loc="lower left", fontsize=8)
    axes.invert_yaxis()

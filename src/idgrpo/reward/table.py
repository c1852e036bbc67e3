"""A reward model's card, for people: the table that `train-rm` prints, and one picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = (
    ("source", "source"),
    ("distortion", "distortion"),
    ("strength", "strength"),
    ("num_people", "people"),
    ("annotators_agree", "annotators agree:"),
)
DECIDED, WITH_TIES = "#4477aa", "#ccbb44"


def measured_on(card: dict) -> str:
    """Name the part whose figures stand for the model; older cards do not say."""
    return card.get("measured_on") or ("test" if card["test"]["num_decided"] else "validation")


def accuracy_lines(card: dict) -> list[str]:
    """Return the table of a reward model's card as lines of text."""
    part = measured_on(card)
    lines = [
        f"{'pairs of unseen people' if part == 'test' else 'validation people':40} {'pairs':>7} {'decided':>9} {'with ties':>10}"
    ]
    for name in ("test", "validation", "train"):
        if card[name]["num_pairs"]:
            lines.append(_line(name, card[name]))
    for group, title in KINDS:
        found = card[part][f"by_{group}"]
        if found:
            lines += [_line(f"{part}, {title} {value}", figures) for value, figures in found.items()]
    for name, probe in card["probes"].items():
        lines.append(f"{'probe ' + name:40} {probe['num_clips']:>7} {probe['pass_rate']:>9.3f}")
    if teacher := card.get("teacher"):
        lines.append(f"teacher kept {teacher['num_kept']} of {teacher['num_automatic']} automatic pairs")
        lines += [f"{'  of ' + kind:40} {share:>17.3f}" for kind, share in teacher["kept_share_by_distortion"].items()]
    if card.get("at_chance"):
        low, high = card["at_chance_interval"]
        lines.append(
            f"AT CHANCE: the 95 % interval of decided validation pairs, {low:.3f} to {high:.3f}, does not leave 0.5 below it"
        )
    error = card[part]["calibration_error"]
    lines.append(
        f"tie threshold {card['tie_threshold']:.3f} (from validation)"
        + (f", calibration error {error:.3f}" if error is not None else "")
    )
    return lines


def flat_metrics(card: dict) -> dict[str, float]:
    """Return the figures of a card that are kept in an artifact's manifest."""
    return dict(_flat(card))


def _flat(card: dict) -> Iterator[tuple[str, float]]:
    for name in ("test", "validation", "train"):
        for key in ("accuracy_decided", "accuracy_with_ties", "calibration_error", "num_pairs"):
            if card[name][key] is not None:
                yield f"{name}_{key}", card[name][key]
        for group, _ in KINDS:
            for value, figures in card[name][f"by_{group}"].items():
                if figures["accuracy_decided"] is not None:
                    yield f"{name}_accuracy_decided_{group}_{value}", figures["accuracy_decided"]
    for name, probe in card["probes"].items():
        yield f"probe_{name}", probe["pass_rate"]
    if "teacher" in card:
        yield "teacher_kept_share", card["teacher"]["kept_share"]
    if "at_chance" in card:
        yield "at_chance", float(card["at_chance"])
    yield "tie_threshold", card["tie_threshold"]


def _line(name: str, figures: dict) -> str:
    def show(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    return f"{name[:40]:40} {figures['num_pairs']:>7} {show(figures['accuracy_decided']):>9} {show(figures['accuracy_with_ties']):>10}"


def draw_card(card: dict, path: Path) -> None:
    """Write one PNG about people who were held out: stated against observed win rate, accuracy by kind, probes."""
    from matplotlib.figure import Figure

    part = measured_on(card)
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

"""The accuracy table that `train-rm` prints: one line a part and a kind of pair."""

from collections.abc import Iterator

KINDS = (
    ("source", "source"),
    ("distortion", "distortion"),
    ("strength", "strength"),
    ("num_people", "people"),
    ("annotators_agree", "annotators agree:"),
)


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
    yield "tie_threshold", card["tie_threshold"]


def _line(name: str, figures: dict) -> str:
    def show(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    return f"{name[:40]:40} {figures['num_pairs']:>7} {show(figures['accuracy_decided']):>9} {show(figures['accuracy_with_ties']):>10}"

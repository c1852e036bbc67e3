"""How good a reward model is on labelled pairs: accuracy with and without ties, calibration, by kind of pair."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from idgrpo.records.models import Preference

Z95 = 1.959964


@dataclass(frozen=True)
class Judged:
    """One labelled pair and the model's gap r_A - r_B."""

    preference: Preference
    gap: float

    @property
    def label(self) -> str:
        """a, b or tie; `both_bad` says that neither side is better, as a tie does."""
        return "tie" if self.preference.label == "both_bad" else self.preference.label


def accuracy_decided(pairs: Sequence[Judged]) -> float | None:
    """Share of decided pairs (a, b) with the right sign; a gap of exactly 0 counts half; None without such pairs."""
    decided = [p for p in pairs if p.label != "tie"]
    if not decided:
        return None
    right = sum(0.5 if p.gap == 0 else float((p.gap > 0) == (p.label == "a")) for p in decided)
    return right / len(decided)


def accuracy_interval(pairs: Sequence[Judged]) -> list[float]:
    """Return the 95 % interval of `accuracy_decided`, [low, high]; [0, 1] without decided pairs.

    Source: Wilson 1927, score interval, which is right for few pairs too. Pairs of the same people count as independent.
    """
    num = sum(p.label != "tie" for p in pairs)
    share = accuracy_decided(pairs)
    if share is None:
        return [0.0, 1.0]
    middle, spread = share + Z95**2 / (2 * num), Z95 * math.sqrt(share * (1 - share) / num + (Z95 / (2 * num)) ** 2)
    return [max(0.0, (middle - spread) / (1 + Z95**2 / num)), min(1.0, (middle + spread) / (1 + Z95**2 / num))]


def predict(gap: float, tie_threshold: float) -> str:
    """Read a gap as a, b or tie (|gap| below the threshold)."""
    if abs(gap) < tie_threshold:
        return "tie"
    return "a" if gap > 0 else "b" if gap < 0 else "tie"


def accuracy_with_ties(pairs: Sequence[Judged], tie_threshold: float) -> float | None:
    """Share of pairs whose class (a, b, tie) is right."""
    if not pairs:
        return None
    return sum(predict(p.gap, tie_threshold) == p.label for p in pairs) / len(pairs)


def best_tie_threshold(pairs: Sequence[Judged]) -> float:
    """Return the threshold with the most right classes on *validation* pairs; equal |gap| move together.

    The candidates lie between neighbouring values of |gap| (and at 0): one pass over the sorted pairs.
    """
    by_size: dict[float, list[Judged]] = defaultdict(list)
    for pair in pairs:
        by_size[abs(pair.gap)].append(pair)
    sizes = sorted(by_size)
    right = sum(predict(p.gap, 0.0) == p.label for p in pairs)
    best, threshold = right, 0.0
    for index, size in enumerate(sizes):
        for pair in by_size[size]:
            right += int(pair.label == "tie") - int(predict(pair.gap, 0.0) == pair.label)
        if right > best:
            following = sizes[index + 1] if index + 1 < len(sizes) else size * 2 + 1e-6
            best, threshold = right, (size + following) / 2
    return threshold


def win_probability(gap: float, theta: float = 1.0) -> float:
    """Return P(A) / (P(A) + P(B)) under Rao and Kupper's model; theta = 1 is sig(gap), also Davidson's value."""
    gap = max(-500.0, min(500.0, gap))
    first, second = 1 / (1 + theta * math.exp(-gap)), 1 / (1 + theta * math.exp(gap))
    return first / (first + second)


def calibration(pairs: Sequence[Judged], num_bins: int = 10, theta: float = 1.0) -> list[dict[str, float]]:
    """Bin decided pairs by the stated probability that the preferred side wins, and count how often it did."""
    bins: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for pair in pairs:
        if pair.label == "tie":
            continue
        stated = win_probability(abs(pair.gap), theta)
        won = 0.5 if pair.gap == 0 else float((pair.gap > 0) == (pair.label == "a"))
        bins[min(int((stated - 0.5) * 2 * num_bins), num_bins - 1)].append((stated, won))
    return [
        {
            "stated": sum(s for s, _ in found) / len(found),
            "observed": sum(w for _, w in found) / len(found),
            "num": len(found),
        }
        for _, found in sorted(bins.items())
    ]


def calibration_error(bins: Sequence[dict[str, float]]) -> float | None:
    """Return the expected calibration error: mean |stated - observed| weighted by the pairs of each bin."""
    total = sum(b["num"] for b in bins)
    return sum(b["num"] * abs(b["stated"] - b["observed"]) for b in bins) / total if total else None


def _strength(pair: Judged) -> str | None:
    value = pair.preference.strength
    if value is None:
        return None
    low = min(int(value * 4), 3) / 4
    return f"{low:.2f}-{low + 0.25:.2f}"


GROUPINGS: dict[str, Callable[[Judged], str | None]] = {
    "source": lambda p: p.preference.source,
    "distortion": lambda p: p.preference.distortion,
    "strength": _strength,
    "num_people": lambda p: str(len(p.preference.references)),
    "annotators_agree": lambda p: _agreement(p.preference),
}


def _agreement(preference: Preference) -> str | None:
    votes = preference.votes
    if sum(votes.values()) < 2:
        return None
    return "all" if max(votes.values()) == sum(votes.values()) else "most"


def report(pairs: Sequence[Judged], tie_threshold: float, theta: float = 1.0) -> dict:
    """Return every figure for one part of the data, with counts, as a JSON document."""
    bins = calibration(pairs, theta=theta)
    document: dict = {
        "num_pairs": len(pairs),
        "num_decided": sum(p.label != "tie" for p in pairs),
        "accuracy_decided": accuracy_decided(pairs),
        "accuracy_decided_ci95": accuracy_interval(pairs),
        "accuracy_with_ties": accuracy_with_ties(pairs, tie_threshold),
        "tie_threshold": tie_threshold,
        "calibration": bins,
        "calibration_error": calibration_error(bins),
    }
    for name, key in GROUPINGS.items():
        groups: dict[str, list[Judged]] = defaultdict(list)
        for pair in pairs:
            value = key(pair)
            if value is not None:
                groups[value].append(pair)
        document[f"by_{name}"] = {
            value: {
                "num_pairs": len(found),
                "num_decided": sum(p.label != "tie" for p in found),
                "accuracy_decided": accuracy_decided(found),
                "accuracy_with_ties": accuracy_with_ties(found, tie_threshold),
            }
            for value, found in sorted(groups.items())
        }
    return document

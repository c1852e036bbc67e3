"""Intervals: Wilson for shares, bootstrap over pairs for agreement."""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A value with its interval; `num` counts what it rests on. NaN where there is nothing."""

    value: float
    low: float
    high: float
    num: int


NOTHING = Interval(math.nan, math.nan, math.nan, 0)


def share(num_hits: float, num: int, level: float = 0.95) -> Interval:
    """Interval a share with Wilson's interval (Wilson 1927), which stays in [0, 1] and holds for small counts."""
    if num == 0:
        return NOTHING
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = num_hits / num
    centre = (p + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(p * (1 - p) / num + z * z / (4 * num * num))
    return Interval(p, max(centre - half, 0.0), min(centre + half, 1.0), num)


def logit_interval(value: float, error: float, num: int, level: float = 0.95) -> Interval:
    """Interval a share from its standard error on the logit scale."""
    if num == 0 or not math.isfinite(error):
        return NOTHING if num == 0 else Interval(value, 0.0, 1.0, num)
    half = NormalDist().inv_cdf(0.5 + level / 2) * error
    logit = math.log(value / (1 - value))
    return Interval(value, _sigmoid(logit - half), _sigmoid(logit + half), num)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def raw_agreement(counts: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Give the share of equal answers among all pairs of votes on the same pair; counts [pair, class] -> [].

    `weight` [resample, pair] gives one value each: [resample].
    """
    equal, both = (counts * (counts - 1)).sum(1), counts.sum(1) * (counts.sum(1) - 1)
    with np.errstate(invalid="ignore"):
        if weight is None:
            return equal.sum() / np.float64(both.sum())
        return (weight @ equal) / (weight @ both)


def nominal_alpha(counts: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Give Krippendorff's alpha for unordered classes of weighted pairs: [resample] from weight [resample, pair].

    alpha = 1 - D_observed / D_expected (Krippendorff 2004, ch. 11). Pairs with one vote cannot agree and are left out.
    The same numbers as the krippendorff package; one matrix product for all resamples, where it takes one at a time.
    """
    num = counts.sum(1)
    counts, num, weight = counts[num > 1], num[num > 1], weight[:, num > 1]
    disagree = (num * num - (counts * counts).sum(1)) / np.maximum(num - 1, 1)
    observed = weight @ disagree
    margins = weight @ counts
    total = margins.sum(1)
    expected = (total * total - (margins * margins).sum(1)) / np.maximum(total - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - observed / expected, np.nan)


def bootstrap(statistic, counts: np.ndarray, *, num_resamples: int, level: float, seed: int) -> tuple[float, float]:
    """Give the percentile interval of a statistic of counts [pair, class], pairs drawn with replacement.

    `statistic(counts, weight [resample, pair]) -> [resample]`; resamples come in slices, so memory stays bounded.
    """
    num_pairs = len(counts)
    if num_pairs == 0:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    slice_size = max(1, min(num_resamples, 4_000_000 // num_pairs))
    values: list[np.ndarray] = []
    for start in range(0, num_resamples, slice_size):
        size = min(slice_size, num_resamples - start)
        drawn = generator.integers(0, num_pairs, size=(size, num_pairs))
        weight = np.stack([np.bincount(row, minlength=num_pairs) for row in drawn]).astype(np.float64)
        values.append(statistic(counts, weight))
    found = np.concatenate(values)
    found = found[np.isfinite(found)]
    if len(found) == 0:
        return math.nan, math.nan
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)

"""Paired statistics over cases: intervals, win rates, effect sizes, correction for many measures, power.

The case is the unit: samples of one case (several seeds) are averaged first, because they share prompt and people.
"""

from dataclasses import dataclass
from math import erf, sqrt

import numpy as np

from idgrpo.evaluate.config import PairLaw

Z_POWER_80 = 0.8416212
DEFAULT_LAW = PairLaw()


@dataclass(frozen=True)
class Interval:
    """Hold a mean with its interval; low and high are None when there are too few cases to say."""

    value: float
    low: float | None
    high: float | None
    num_cases: int


def resample(num_cases: int, num_resamples: int, seed: int) -> np.ndarray:
    """Draw bootstrap indices int [resample, case], a function of the arguments alone."""
    return np.random.default_rng([seed, num_cases, num_resamples]).integers(0, num_cases, (num_resamples, num_cases))


def mean_interval(values: np.ndarray, level: float = 0.95, num_resamples: int = 4000, seed: int = 0) -> Interval:
    """Bound the mean of values [case] by the studentised bootstrap.

    The percentile bootstrap is too narrow for the 20 to 60 cases people can afford; dividing each resample's error by
    its own standard error repairs that. Source: Efron and Tibshirani 1993, chapter 12. Where many values are equal and
    that ratio is undefined (say, swap rates of mostly 0) the percentile interval is given.
    """
    values = np.asarray(values, np.float64)
    num = len(values)
    mean = float(values.mean())
    if num < 4:
        return Interval(mean, None, None, num)
    spread = float(values.std(ddof=1))
    if spread < 1e-12:
        return Interval(mean, mean, mean, num)
    drawn = values[resample(num, num_resamples, seed)]
    means, errors = drawn.mean(1), drawn.std(1, ddof=1) / sqrt(num)
    tails = [(1 - level) / 2, (1 + level) / 2]
    usable = errors > 1e-3 * spread / sqrt(num)
    if usable.mean() < 0.999:
        low, high = np.quantile(means, tails)
        return Interval(mean, float(low), float(high), num)
    ratio = np.quantile((means[usable] - mean) / errors[usable], tails)
    return Interval(mean, mean - float(ratio[1]) * spread / sqrt(num), mean - float(ratio[0]) * spread / sqrt(num), num)


def relative_interval(
    base: np.ndarray, tuned: np.ndarray, level: float = 0.95, num_resamples: int = 4000, seed: int = 0
) -> Interval | None:
    """Bound mean(tuned) / mean(base) - 1 by the paired bootstrap over cases; None when the base's mean is not
    positive."""
    base, tuned = np.asarray(base, np.float64), np.asarray(tuned, np.float64)
    if base.mean() <= 1e-9:
        return None
    value = float(tuned.mean() / base.mean() - 1)
    if len(base) < 4:
        return Interval(value, None, None, len(base))
    index = resample(len(base), num_resamples, seed)
    below = base[index].mean(1)
    ratios = tuned[index].mean(1)[below > 1e-9] / below[below > 1e-9] - 1
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), len(base))


def win_rate(differences: np.ndarray, tie_width: float = 1e-9, level: float = 0.95) -> Interval:
    """Share of cases that improve, ties half, with Wilson's interval (Wilson 1927)."""
    differences = np.asarray(differences, np.float64)
    num = len(differences)
    share = float(((differences > tie_width) + 0.5 * (np.abs(differences) <= tie_width)).mean())
    z = normal_quantile((1 + level) / 2)
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z * sqrt(share * (1 - share) / num + z * z / (4 * num * num)) / (1 + z * z / num)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), num)


def effect_size(differences: np.ndarray) -> float | None:
    """Give Hedges' g of paired differences: mean / standard deviation, corrected for few cases; None without spread."""
    differences = np.asarray(differences, np.float64)
    if len(differences) < 2 or differences.std(ddof=1) < 1e-12:
        return None
    freedom = len(differences) - 1
    return float(differences.mean() / differences.std(ddof=1) * (1 - 3 / (4 * freedom - 1 if freedom > 1 else 4)))


def sign_flip_p(differences: np.ndarray, num_resamples: int = 4000, seed: int = 0) -> float:
    """Give the two-sided p-value of no difference: the share of random sign changes with at least this mean.

    Exact under symmetry of the differences; never 0 because the data itself counts as one draw.
    """
    differences = np.asarray(differences, np.float64)
    signs = np.random.default_rng([seed, len(differences), 7]).integers(0, 2, (num_resamples, len(differences))) * 2 - 1
    means = np.abs((signs * differences).mean(1))
    return float((1 + (means >= abs(differences.mean()) - 1e-15).sum()) / (1 + num_resamples))


def holm(p_values: list[float]) -> list[float]:
    """Correct p-values for many measures, Holm's step-down method (Holm 1979): monotone, at most 1."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def detectable_difference(differences: np.ndarray, level: float = 0.95) -> float | None:
    """Give the smallest true difference that this many cases would show with 80 % power: (z + 0.84) sd / sqrt(n)."""
    differences = np.asarray(differences, np.float64)
    if len(differences) < 4:
        return None
    return float((normal_quantile((1 + level) / 2) + Z_POWER_80) * differences.std(ddof=1) / sqrt(len(differences)))


def cases_needed(differences: np.ndarray, difference: float, level: float = 0.95) -> int | None:
    """Say how many cases would show a true `difference` with 80 % power; None when nothing varies or it is 0."""
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    if spread < 1e-12 or abs(difference) < 1e-12:
        return None
    return int(np.ceil(((normal_quantile((1 + level) / 2) + Z_POWER_80) * spread / difference) ** 2))


def implied_win_rate(gaps: np.ndarray, law: PairLaw = DEFAULT_LAW) -> float:
    """Give the win rate that reward gaps d imply, ties half: mean of P(A) + P(tie) / 2 = (1 + P(A) - P(B)) / 2.

    An un-anchored logit means nothing as a percentage; this does, under the law the reward model was trained with:
    Rao-Kupper P(A) = sig(d - ln theta); Davidson P(A) = e^d/2 / (e^d/2 + e^-d/2 + nu); Bradley-Terry P(A) = sig(d).
    A margin loss states no probabilities and is read as Bradley-Terry.
    """
    gaps = np.clip(np.asarray(gaps, np.float64), -500, 500)
    if law.loss == "davidson":
        strengths = np.exp(gaps / 2), np.exp(-gaps / 2)
        ours, theirs = (strength / (sum(strengths) + law.nu) for strength in strengths)
    else:
        shift = np.log(law.theta) if law.loss == "rao_kupper" else 0.0
        ours, theirs = (1 / (1 + np.exp(shift - sign * gaps)) for sign in (1.0, -1.0))
    return float((0.5 * (1 + ours - theirs)).mean())


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Give Spearman's rank correlation; None with fewer than three values or when one side is constant."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if len(first) < 3:
        return None
    from scipy.stats import rankdata

    a, b = rankdata(first), rankdata(second)
    if a.std() < 1e-12 or b.std() < 1e-12:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def normal_quantile(probability: float) -> float:
    """Invert the normal distribution function by bisection; exact to 1e-9 for probabilities up to 1 - 1e-12."""
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 * (1 + erf(middle / sqrt(2))) < probability else (low, middle)
    return (low + high) / 2

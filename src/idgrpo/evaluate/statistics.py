"""Paired statistics over cases: intervals, win rates, effect sizes, correction for many measures, power.

The case is the unit: samples of one case (several seeds) are averaged first, because they share prompt and people.
"""

from math import ceil, erf, log2, sqrt

import numpy as np

from idgrpo.evaluate.config import PairLaw
from idgrpo.evaluate.document import Estimate

Z_POWER_80 = 0.8416212
DEFAULT_LAW = PairLaw()
EXACT_CASES = 14  # up to here all sign changes are counted (16,384), beyond they are drawn


def fewest_cases(level: float = 0.95, num_tests: int = 1) -> int:
    """Give the smallest number of cases that can reach significance at all.

    n cases have 2^n sign changes, so the smallest two-sided p-value is 2 / 2^n: 6 cases for p <= 0.05, more when the
    p-value is multiplied by the number of tests.
    """
    return ceil(log2(2 * num_tests / (1 - level)) - 1e-9)


def resample(num_cases: int, num_resamples: int, seed: int) -> np.ndarray:
    """Draw bootstrap indices int [resample, case], a function of the arguments alone."""
    return np.random.default_rng([seed, num_cases, num_resamples]).integers(0, num_cases, (num_resamples, num_cases))


def mean_interval(values: np.ndarray, level: float = 0.95, num_resamples: int = 4000, seed: int = 0) -> Estimate:
    """Bound the mean of values [case] by the studentised bootstrap.

    The percentile bootstrap is too narrow for the 20 to 60 cases people can afford; dividing each resample's error by
    its own standard error repairs that. Source: Efron and Tibshirani 1993, chapter 12. Where many values are equal and
    that ratio is undefined (say, swap rates of mostly 0) the percentile interval is given. No interval below the number
    of cases with which a sign-flip test could reach significance (`fewest_cases`).
    """
    values = np.asarray(values, np.float64)
    num = len(values)
    mean = float(values.mean())
    if num < fewest_cases(level):
        return _estimate(mean, None, num)
    spread = float(values.std(ddof=1))
    if spread < 1e-12:
        return _estimate(mean, (mean, mean), num)
    drawn = values[resample(num, num_resamples, seed)]
    means, errors = drawn.mean(1), drawn.std(1, ddof=1) / sqrt(num)
    tails = [(1 - level) / 2, (1 + level) / 2]
    usable = errors > 1e-3 * spread / sqrt(num)
    if usable.mean() < 0.999:
        low, high = np.quantile(means, tails)
        return _estimate(mean, (low, high), num)
    low, high = np.quantile((means[usable] - mean) / errors[usable], tails)
    return _estimate(mean, (mean - high * spread / sqrt(num), mean - low * spread / sqrt(num)), num)


def relative_interval(
    base: np.ndarray, tuned: np.ndarray, level: float = 0.95, num_resamples: int = 4000, seed: int = 0
) -> Estimate | None:
    """Bound mean(tuned) / mean(base) - 1 over paired cases; None when the base's mean is not positive.

    A ratio r is inside when mean(tuned - r base) divided by its standard error lies between the bootstrap quantiles of
    that statistic, taken at the observed ratio. Dividing by the standard error keeps the coverage that the percentile
    bootstrap of the ratio loses with few cases. No bounds when the base's mean is not clearly above zero: then every
    ratio fits. Source: Fieller 1954; with bootstrap quantiles, Hwang 1995.
    """
    base, tuned = np.asarray(base, np.float64), np.asarray(tuned, np.float64)
    num = len(base)
    if base.mean() <= 1e-9:
        return None
    ratio = float(tuned.mean() / base.mean())
    if num < fewest_cases(level):
        return _estimate(ratio - 1, None, num)
    rest = tuned - ratio * base
    spread = float(rest.std(ddof=1))
    if spread < 1e-12:
        return _estimate(ratio - 1, (ratio - 1, ratio - 1), num)
    drawn = rest[resample(num, num_resamples, seed)]
    errors = drawn.std(1, ddof=1) / sqrt(num)
    usable = errors > 1e-3 * spread / sqrt(num)
    low, high = np.quantile(drawn.mean(1)[usable] / errors[usable], [(1 - level) / 2, (1 + level) / 2])
    bounds = [_ratio_at(base, tuned, quantile) for quantile in (float(high), float(low))]
    if bounds[0] is None or bounds[1] is None:
        return _estimate(ratio - 1, None, num)
    return _estimate(ratio - 1, (bounds[0] - 1, bounds[1] - 1), num)


def _ratio_at(base: np.ndarray, tuned: np.ndarray, quantile: float) -> float | None:
    """Solve mean(tuned - r base) = quantile x its standard error for r; None when no finite r bounds the set."""
    (vtt, vtb), (_, vbb) = np.cov(tuned, base) / len(base)
    square = quantile * quantile
    a = base.mean() ** 2 - square * vbb
    b = tuned.mean() * base.mean() - square * vtb
    c = tuned.mean() ** 2 - square * vtt
    if a <= 0:
        return None
    root = sqrt(max(b * b - a * c, 0.0))
    return float((b - root) / a) if quantile > 0 else float((b + root) / a)


def _estimate(value: float, bounds: tuple[float, float] | None, num_cases: int) -> Estimate:
    low, high = (None, None) if bounds is None else (float(bounds[0]), float(bounds[1]))
    return Estimate(value=value, low=low, high=high, num_cases=num_cases)


def win_rate(differences: np.ndarray, tie_width: float = 1e-9, level: float = 0.95) -> Estimate:
    """Share of cases that improve, ties half, with Wilson's interval (Wilson 1927)."""
    differences = np.asarray(differences, np.float64)
    num = len(differences)
    share = float(((differences > tie_width) + 0.5 * (np.abs(differences) <= tie_width)).mean())
    z = normal_quantile((1 + level) / 2)
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z * sqrt(share * (1 - share) / num + z * z / (4 * num * num)) / (1 + z * z / num)
    return _estimate(share, (max(0.0, middle - half), min(1.0, middle + half)), num)


def effect_size(differences: np.ndarray) -> float | None:
    """Give Hedges' g of paired differences: mean / standard deviation, corrected for few cases; None without spread."""
    differences = np.asarray(differences, np.float64)
    if len(differences) < 2 or differences.std(ddof=1) < 1e-12:
        return None
    freedom = len(differences) - 1
    return float(differences.mean() / differences.std(ddof=1) * (1 - 3 / (4 * freedom - 1 if freedom > 1 else 4)))


def sign_flip_p(differences: np.ndarray, num_resamples: int = 4000, seed: int = 0) -> float:
    """Give the two-sided p-value of no difference: the share of sign changes with at least this mean.

    All sign changes are counted up to 14 cases, so the p-value is exact; beyond, `num_resamples` are drawn and the data
    itself counts as one of them, so it is never 0. Valid under symmetry of the differences.
    """
    differences = np.asarray(differences, np.float64)
    num = len(differences)
    reached = abs(differences.mean()) * (1 - 1e-12) - 1e-15
    if num <= EXACT_CASES:
        signs = (np.arange(2**num)[:, None] >> np.arange(num) & 1) * 2 - 1
        return float((np.abs((signs @ differences) / num) >= reached).mean())
    signs = np.random.default_rng([seed, num, 7]).integers(0, 2, (num_resamples, num)) * 2 - 1
    return float((1 + (np.abs((signs @ differences) / num) >= reached).sum()) / (1 + num_resamples))


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
    if len(differences) < fewest_cases(level):
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

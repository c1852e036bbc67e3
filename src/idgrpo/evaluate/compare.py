"""Means per variant and paired comparisons with the base."""

from collections.abc import Mapping, Sequence

import numpy as np

from idgrpo.evaluate.config import StatisticsConfig
from idgrpo.evaluate.document import Comparison, Estimate, MeasureInfo
from idgrpo.evaluate.statistics import (
    detectable_difference,
    effect_size,
    fewest_cases,
    holm,
    mean_interval,
    relative_interval,
    sign_flip_p,
    win_rate,
)

Values = Mapping[tuple[str, int], Mapping[str, float | None]]  # (case id, seed) -> measure -> number


def by_case(values: Values, name: str, keys: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Average a measure over the seeds of each case, leaving out videos for which it is not defined."""
    collected: dict[str, list[float]] = {}
    for key in keys:
        value = values[key].get(name)
        if value is not None and np.isfinite(value):
            collected.setdefault(key[0], []).append(float(value))
    return {case: float(np.mean(numbers)) for case, numbers in collected.items()}


def variant_means(values: Values, names: Sequence[str], config: StatisticsConfig) -> dict[str, Estimate]:
    """Give mean and interval of each measure over cases; measures defined for no video are left out."""
    means = {}
    for name in names:
        cases = by_case(values, name, sorted(values))
        if cases:
            means[name] = bounded_mean(np.array(list(cases.values())), config)
    return means


def paired_cases(base: Values, tuned: Values, name: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Give case ids and both sides' values [case], over the (case, seed) keys both variants have and define."""
    shared = [
        key
        for key in sorted(set(base) & set(tuned))
        if base[key].get(name) is not None and tuned[key].get(name) is not None
    ]
    ours, theirs = by_case(base, name, shared), by_case(tuned, name, shared)
    cases = sorted(set(ours) & set(theirs))
    return cases, np.array([ours[c] for c in cases]), np.array([theirs[c] for c in cases])


def compare(
    base: Values,
    tuned: Values,
    infos: Sequence[MeasureInfo],
    config: StatisticsConfig,
    headlines: Sequence[str] = ("identity",),
) -> dict[str, Comparison]:
    """Compare a variant with the base measure by measure.

    The headline measures are the questions asked beforehand, and a gain is claimed only when all of them rise; so each
    keeps its own p-value. The p-values of all other measures with a direction are corrected for being many.
    """
    found: dict[str, Comparison] = {}
    for info in infos:
        cases, before, after = paired_cases(base, tuned, info.name)
        if cases:
            found[info.name] = _comparison(before, after, config, info)
    tested = [i for i in infos if i.name in found and i.better != "neutral" and i.family not in ("field", "control")]
    tested = [i for i in tested if i.name not in headlines]
    corrected = dict(zip((i.name for i in tested), holm([found[i.name].p_value for i in tested]), strict=True))
    for info in infos:
        if info.name in found:
            entry, p_holm = found[info.name], corrected.get(info.name)
            if entry.difference.num_cases < fewest_cases(config.level, 1 if p_holm is None else len(tested)):
                verdict = "too_few"
            else:
                p_value = entry.p_value if p_holm is None else p_holm
                verdict = _verdict(entry.difference.value, p_value, info.better, 1 - config.level)
            found[info.name] = entry.model_copy(update={"p_holm": p_holm, "verdict": verdict})
    return found


def _comparison(before: np.ndarray, after: np.ndarray, config: StatisticsConfig, info: MeasureInfo) -> Comparison:
    gaps = after - before
    improvements = -gaps if info.better == "lower" else gaps
    return Comparison(
        base=float(before.mean()),
        tuned=float(after.mean()),
        difference=bounded_mean(gaps, config),
        relative=None
        if info.signed
        else relative_interval(before, after, config.level, config.num_resamples, config.seed),
        win_rate=win_rate(improvements, config.tie_width, config.level),
        effect_size=effect_size(gaps),
        p_value=sign_flip_p(gaps, config.num_resamples, config.seed),
        p_holm=None,
        detectable=detectable_difference(gaps, config.level),
        verdict="unclear",
    )


def _verdict(difference: float, p_value: float, better: str, alpha: float) -> str:
    if p_value > alpha or difference == 0:
        return "unclear"
    if better == "neutral":
        return "higher" if difference > 0 else "lower"
    return "better" if (difference > 0) == (better == "higher") else "worse"


def bounded_mean(values: np.ndarray, config: StatisticsConfig) -> Estimate:
    """Give the mean of values [case] with its interval."""
    return mean_interval(values, config.level, config.num_resamples, config.seed)

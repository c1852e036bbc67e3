"""Means per variant and paired comparisons with the base."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from idgrpo.evaluate.config import StatisticsConfig
from idgrpo.evaluate.document import Comparison, Figure
from idgrpo.evaluate.measure import MeasureInfo
from idgrpo.evaluate.statistics import (
    Interval,
    detectable_difference,
    effect_size,
    holm,
    mean_interval,
    relative_interval,
    sign_flip_p,
    win_rate,
)

Values = Mapping[tuple[str, int], Mapping[str, float | None]]  # (case id, seed) -> measure -> number


def figure(interval: Interval) -> Figure:
    """Turn an interval into its part of the document."""
    return Figure(**asdict(interval))


def by_case(values: Values, name: str, keys: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Average a measure over the seeds of each case, leaving out videos for which it is not defined."""
    collected: dict[str, list[float]] = {}
    for key in keys:
        value = values[key].get(name)
        if value is not None and np.isfinite(value):
            collected.setdefault(key[0], []).append(float(value))
    return {case: float(np.mean(numbers)) for case, numbers in collected.items()}


def variant_means(values: Values, names: Sequence[str], config: StatisticsConfig) -> dict[str, Figure]:
    """Give mean and interval of each measure over cases; measures defined for no video are left out."""
    means = {}
    for name in names:
        cases = by_case(values, name, sorted(values))
        if cases:
            means[name] = figure(_interval(np.array(list(cases.values())), config))
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
    base: Values, tuned: Values, infos: Sequence[MeasureInfo], config: StatisticsConfig, headline: str = "identity"
) -> dict[str, Comparison]:
    """Compare a variant with the base measure by measure.

    The headline measure is the one question asked beforehand and keeps its own p-value; those of all other measures with a
    direction are corrected for being many.
    """
    found: dict[str, Comparison] = {}
    for info in infos:
        cases, before, after = paired_cases(base, tuned, info.name)
        if cases:
            found[info.name] = _comparison(before, after, config, signed=info.signed)
    tested = [i for i in infos if i.name in found and i.better != "neutral" and i.family not in ("field", "control")]
    tested = [i for i in tested if i.name != headline]
    corrected = dict(zip((i.name for i in tested), holm([found[i.name].p_value for i in tested]), strict=True))
    alpha = 1 - config.level
    for info in infos:
        if info.name in found:
            entry = found[info.name]
            p_value = corrected.get(info.name, entry.p_value)
            verdict = _verdict(entry.difference.value, p_value, info.better, alpha)
            found[info.name] = entry.model_copy(update={"p_holm": corrected.get(info.name), "verdict": verdict})
    return found


def _comparison(before: np.ndarray, after: np.ndarray, config: StatisticsConfig, *, signed: bool) -> Comparison:
    gaps = after - before
    relative = None if signed else relative_interval(before, after, config.level, config.num_resamples, config.seed)
    return Comparison(
        base=float(before.mean()),
        tuned=float(after.mean()),
        difference=figure(_interval(gaps, config)),
        relative=figure(relative) if relative else None,
        win_rate=figure(win_rate(gaps, config.tie_width, config.level)),
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


def _interval(values: np.ndarray, config: StatisticsConfig) -> Interval:
    return mean_interval(values, config.level, config.num_resamples, config.seed)

"""Intervals cover what they promise; tests and corrections give textbook answers."""

from itertools import product

import numpy as np
import pytest

from idgrpo.evaluate import statistics as s
from idgrpo.evaluate.config import PairLaw


def test_interval_brackets_the_mean_and_narrows_with_cases():
    values = np.random.default_rng(0).normal(0.1, 0.05, 400)
    wide, narrow = s.mean_interval(values[:25]), s.mean_interval(values)
    assert wide.low < wide.value < wide.high
    assert (narrow.high - narrow.low) == pytest.approx((wide.high - wide.low) / 4, rel=0.35)


def test_same_data_and_seed_give_the_same_interval():
    values = np.random.default_rng(1).normal(size=30)
    assert s.mean_interval(values, seed=3) == s.mean_interval(values, seed=3)


def test_too_few_cases_give_no_interval():
    few = np.linspace(0.1, 0.3, 5)
    assert s.mean_interval(few).low is s.relative_interval(few, few + 0.1).low is s.detectable_difference(few) is None
    assert s.mean_interval(np.linspace(0.1, 0.3, 6)).low is not None


def test_fewest_cases_are_those_that_can_reach_significance():
    """All cases improving gives p = 2 / 2^n: 6 cases for 5 %, 10 when it is the first of 13 corrected tests."""
    assert (s.fewest_cases(0.95), s.fewest_cases(0.95, 13), s.fewest_cases(0.99)) == (6, 10, 8)
    for num in (5, 6):
        assert (s.sign_flip_p(np.linspace(0.1, 0.2, num)) <= 0.05) == (num >= s.fewest_cases(0.95))


def test_constant_and_mostly_constant_values_stay_finite():
    flat = s.mean_interval(np.zeros(20))
    assert (flat.low, flat.high) == (0.0, 0.0)
    rare = np.zeros(20)
    rare[3] = 0.5
    interval = s.mean_interval(rare)
    assert 0.0 <= interval.low <= interval.value <= interval.high <= 0.2


@pytest.mark.parametrize("num_cases", [20, 64])
def test_95_percent_intervals_cover_the_true_difference(num_cases):
    """500 simulated evaluations of skewed paired differences with a known mean: 93 to 97 % of intervals contain it."""
    rng = np.random.default_rng(num_cases)
    true, hits = 0.06, 0
    for run in range(500):
        difficulty = rng.beta(2, 5, num_cases)
        base = difficulty + rng.normal(0, 0.03, num_cases)
        gain = rng.gamma(2.0, true / 2, num_cases)  # skewed: a few cases gain most
        tuned = difficulty + gain + rng.normal(0, 0.03, num_cases)
        found = s.mean_interval(tuned - base, num_resamples=600, seed=run)
        hits += found.low <= true <= found.high
    assert 0.93 <= hits / 500 <= 0.97


def test_relative_interval_of_a_doubling():
    base = np.random.default_rng(2).uniform(0.2, 0.4, 40)
    found = s.relative_interval(base, 2 * base)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))
    assert s.relative_interval(np.zeros(10), base[:10]) is None


def relative_world(rng: np.random.Generator, num: int, kind: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Draw base and tuned values [case] and give the true relative gain."""
    if kind == "skewed gains":
        base = rng.beta(2, 5, num)
        return base + rng.normal(0, 0.03, num), base + rng.gamma(2, 0.03, num) + rng.normal(0, 0.03, num), 0.06 * 3.5
    if kind == "noisy clips":
        case = rng.normal(0.4, 0.08, num)
        return case + rng.normal(0, 0.12, num), case + 0.1 + rng.normal(0, 0.12, num), 0.25
    base = rng.normal(0.25, 0.15, num)  # "separation": its base is small beside its spread
    return base, 0.5 * base + rng.normal(0.155, 0.15, num), 0.12


def relative_coverage(kind: str, num_cases: int, num_runs: int) -> tuple[float, float]:
    """Give the share of intervals that contain the true gain, and the share without bounds (they contain it)."""
    rng, hits, unbounded = np.random.default_rng(num_cases), 0, 0
    for run in range(num_runs):
        base, tuned, true = relative_world(rng, num_cases, kind)
        found = s.relative_interval(base, tuned, num_resamples=600, seed=run)
        unbounded += found.low is None
        hits += found.low is None or found.low <= true <= found.high
    return hits / num_runs, unbounded / num_runs


@pytest.mark.parametrize("num_cases", [8, 30])
def test_intervals_of_a_relative_gain_cover_it_with_few_cases(num_cases):
    assert 0.93 <= relative_coverage("skewed gains", num_cases, 500)[0] <= 0.98


@pytest.mark.bench
@pytest.mark.parametrize("kind", ["skewed gains", "noisy clips", "separation"])
def test_coverage_of_relative_gains(kind, capsys):
    for num_cases in (6, 8, 12, 20, 40, 128):
        covered, unbounded = relative_coverage(kind, num_cases, 2000)
        with capsys.disabled():
            print(
                f"\n{kind}, {num_cases} cases: {covered:.1%} of 95 % intervals cover the gain, {unbounded:.1%} unbounded"
            )
        assert 0.935 <= covered <= 0.98


def test_a_relative_gain_has_no_bounds_where_the_base_may_be_zero():
    base = np.array([0.5, -0.4, 0.6, -0.5, 0.3, -0.2, 0.4, -0.3])
    found = s.relative_interval(base, base + 0.1)
    assert found.value > 0 and found.low is found.high is None


def test_win_rate_counts_ties_half():
    found = s.win_rate(np.array([1.0, 1.0, -1.0, 0.0]))
    assert found.value == pytest.approx(0.625)
    low, high = s.win_rate(np.ones(10)).low, s.win_rate(np.ones(10)).high
    assert (low, high) == (pytest.approx(0.7225, abs=1e-3), pytest.approx(1.0))  # Wilson, 10 of 10


def test_holm_matches_the_textbook():
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert s.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert s.holm([]) == []


def test_sign_flip_p_is_uniform_without_effect_and_small_with_one():
    rng = np.random.default_rng(5)
    nothing = [s.sign_flip_p(rng.normal(size=15), 400, seed) for seed in range(200)]
    assert 0.02 <= np.mean(np.array(nothing) < 0.05) <= 0.09
    assert s.sign_flip_p(np.full(12, 0.1)) < 0.01


def test_sign_flip_p_is_exact_with_few_cases():
    """Every sign change is counted: 5 cases that all improve give 2/32, whatever the seed."""
    assert [s.sign_flip_p(np.full(5, 0.1) + 0.01 * np.arange(5), seed=seed) for seed in (0, 1)] == [2 / 32] * 2
    gaps = np.array([0.3, -0.1, 0.2, 0.05, 0.4, -0.02, 0.1])
    means = [abs(np.dot(signs, gaps)) for signs in product((-1, 1), repeat=7)]
    assert s.sign_flip_p(gaps) == pytest.approx(np.mean(np.array(means) >= abs(gaps.sum()) - 1e-12))
    assert s.sign_flip_p(np.zeros(6)) == 1.0


def test_effect_size_is_hedges_g():
    gaps = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert s.effect_size(gaps) == pytest.approx(0.3 / gaps.std(ddof=1) * (1 - 3 / 15))
    assert s.effect_size(np.ones(5)) is None


def test_power_note_is_right_about_power():
    """A true difference equal to the detectable one is found in about 80 % of evaluations."""
    rng = np.random.default_rng(6)
    num, spread = 30, 0.1
    smallest = (s.normal_quantile(0.975) + s.Z_POWER_80) * spread / num**0.5
    assert s.detectable_difference(rng.normal(0, spread, 20000)) == pytest.approx(
        smallest * (num / 20000) ** 0.5, rel=0.03
    )
    found = [s.sign_flip_p(rng.normal(smallest, spread, num), 300, seed) <= 0.05 for seed in range(300)]
    assert 0.70 <= np.mean(found) <= 0.88
    assert s.cases_needed(rng.normal(0, spread, 20000), smallest) == pytest.approx(num, abs=2)


def test_implied_win_rate():
    assert s.implied_win_rate(np.zeros(4)) == pytest.approx(0.5)
    assert s.implied_win_rate(np.array([50.0])) == pytest.approx(1.0)
    ours, theirs = (1 / (1 + np.exp(np.log(5) - d)) for d in (1.0, -1.0))
    assert s.implied_win_rate(np.array([1.0])) == pytest.approx(ours + (24 * ours * theirs) / 2)


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (PairLaw(theta=2.0), (1 + 1 / (1 + 2 / np.e) - 1 / (1 + 2 * np.e)) / 2),
        (PairLaw(loss="bradley_terry"), 1 / (1 + np.exp(-1))),
        (PairLaw(loss="margin"), 1 / (1 + np.exp(-1))),
        (PairLaw(loss="davidson", nu=3.0), (np.exp(0.5) + 1.5) / (np.exp(0.5) + np.exp(-0.5) + 3)),
    ],
)
def test_implied_win_rate_follows_the_loss_of_the_reward_model(law, expected):
    assert s.implied_win_rate(np.array([1.0]), law) == pytest.approx(expected)
    assert s.implied_win_rate(np.array([1.0, -1.0]), law) == pytest.approx(0.5)
    assert s.implied_win_rate(np.array([-3000.0]), law) == pytest.approx(0.0)


def test_rank_correlation():
    values = np.array([1.0, 2.0, 3.0, 10.0])
    assert s.rank_correlation(values, values**3) == pytest.approx(1.0)
    assert s.rank_correlation(values, -values) == pytest.approx(-1.0)
    assert s.rank_correlation(values, np.ones(4)) is None
    assert s.rank_correlation(values[:2], values[:2]) is None

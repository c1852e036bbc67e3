"""Gates, regressions, JUnit, and the verdicts of the hacking panel."""

from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from tests.evaluate.conftest import PlantedFinder

from idgrpo.errors import UsageError
from idgrpo.evaluate.config import EvaluateConfig, StatisticsConfig
from idgrpo.evaluate.diagnostics import copied_cases
from idgrpo.evaluate.evaluate import evaluate
from idgrpo.evaluate.gates import check_bounds, check_regression, junit, parse_bounds
from idgrpo.evaluate.measure import MeasureInfo
from idgrpo.evaluate.scorer import ClipScorer

CONFIG = EvaluateConfig(statistics=StatisticsConfig(num_resamples=300))
BAD = ["swapped halves", "missing person", "duplicate", "replaced", "missing person", "duplicate"]
GOOD = ["faithful"] * 6


def scorer_of(table: dict[str, float]) -> ClipScorer:
    """A reward that likes a variant, told from the folder of its videos."""

    def score(clips, samples, rates):
        return [[value + 0.01 * len(clips) for name, value in table.items() if f"/{name}/" in s.video] for s in samples]

    return ClipScorer(MeasureInfo("reward", "Reward", "higher", "reward", "", True), "k", score)


def report_of(make_samples, base, tuned, reward=None, **options):
    samples = {"base": make_samples("base", base), "tuned": make_samples("tuned", tuned, **options)}
    return evaluate(samples, PlantedFinder(), CONFIG, scorers=[scorer_of(reward)] if reward else [])


def levels(report):
    return {v.name: v.level for v in report.diagnostics}


def test_bounds_are_read_or_refused():
    assert parse_bounds(["identity=0.35,worst=0.2", "margin=-1e-3"], "--min") == {
        "identity": 0.35,
        "worst": 0.2,
        "margin": -0.001,
    }
    for text in ("identity", "identity=high"):
        with pytest.raises(UsageError, match="not measure=number"):
            parse_bounds([text], "--min")


def test_gates_know_separation(make_samples):
    report = report_of(make_samples, BAD, ["faithful"] * 4 + ["blend"] * 2)
    (kept,) = check_bounds(report, {"separation": 0.6}, {})
    (missed,) = check_bounds(report, {"separation": 0.7}, {})
    assert kept.passed and not missed.passed and "separation of tuned is 0.6667" in missed.text
    worse = check_regression(report_of(make_samples, BAD, ["blend"] * 6), report)
    assert "tuned.separation.regression" in {g.name for g in worse if not g.passed}


def test_bounds_hold_the_tuned_variant(make_samples):
    report = report_of(make_samples, BAD, GOOD)
    assert all(g.passed for g in check_bounds(report, {"identity": 0.9}, {"swap_rate": 0.1}))
    (missed,) = check_bounds(report, {"identity": 1.5}, {})
    assert not missed.passed
    assert "1.0000, at least 1.5" in missed.text
    with pytest.raises(UsageError, match="no measure 'identty'"):
        check_bounds(report, {"identty": 1}, {})


def test_a_regression_is_found_and_noise_is_not(make_samples):
    good, bad = report_of(make_samples, BAD, GOOD), report_of(make_samples, BAD, BAD)
    better = {g.name: g.passed for g in check_regression(good, bad)}
    assert better["tuned.identity.regression"]
    assert not better["tuned.copy_paste.regression"]  # faithful planted people are copies of their reference
    missed = {g.name for g in check_regression(bad, good) if not g.passed}
    assert {"tuned.identity.regression", "tuned.worst.regression"} <= missed
    assert all(g.passed for g in check_regression(good, good))


def test_junit_names_every_failure(make_samples):
    report = report_of(make_samples, BAD, GOOD)
    root = ElementTree.fromstring(junit(check_bounds(report, {"identity": 1.5, "worst": 0.5}, {})))
    assert root.attrib["tests"] == "2"
    assert root.attrib["failures"] == "1"
    assert [case.attrib["name"] for case in root.findall("testcase") if case.find("failure") is not None] == [
        "tuned.identity"
    ]


def test_panel_praises_an_honest_gain(make_samples):
    found = levels(report_of(make_samples, BAD, GOOD, {"base": 0.0, "tuned": 1.0}))
    assert found["Reward against identity"] == "ok"
    assert found["Worst person"] == "ok"
    assert found["Motion"] == "ok"


def test_panel_calls_a_gamed_reward(make_samples):
    """Six cases reach p = 0.03 at best, which one of ten checks shows by chance; twelve reach 0.0005."""
    for times, level in ((1, "watch"), (2, "alarm")):
        found = levels(report_of(make_samples, GOOD * times, BAD * times, {"base": 0.0, "tuned": 1.0}))
        assert found["Reward against identity"] == found["Worst person"] == level


def test_panel_calls_a_reward_for_blending(make_samples):
    """Identity rises from 0.5 to 0.71, separation falls to 0: the reward pays for the wrong thing."""
    report = report_of(make_samples, ["missing person"] * 12, ["blend"] * 12, {"base": 0.0, "tuned": 1.0})
    verdict = next(v for v in report.diagnostics if v.name == "Reward against identity")
    assert (verdict.level, "separation fell" in verdict.text) == ("alarm", True)


def test_panel_calls_still_videos(make_samples):
    assert levels(report_of(make_samples, BAD, GOOD, still=True))["Motion"] == "alarm"
    assert levels(report_of(make_samples, BAD, GOOD))["Motion"] == "ok"


def test_panel_calls_reward_that_moves_alone(make_samples):
    assert (
        levels(report_of(make_samples, GOOD, GOOD, {"base": 0.0, "tuned": 1.0}))["Reward against identity"] == "watch"
    )


@pytest.mark.parametrize(
    ("num_copies", "level"), [((1, 1), "ok"), ((1, 4), "ok"), ((1, 9), "watch"), ((0, 20), "alarm")]
)
def test_copied_cases_are_told_from_chance(num_copies, level):
    def rows(variant, num):
        return [
            SimpleNamespace(variant=variant, case_id=f"case-{i}", seed=0, values={"copied": 1.0 if i < num else 0.0})
            for i in range(60)
        ]

    report = SimpleNamespace(
        samples=rows("base", num_copies[0]) + rows("tuned", num_copies[1]), reference_variant="base"
    )
    verdict = copied_cases(report, "tuned")
    assert verdict.level == level and f"{num_copies[1] / 60:.0%} of cases" in verdict.text


def test_a_gate_named_twice_is_held_to_both():
    assert parse_bounds(["identity=0.9", "identity=0.4"], "--min") == {"identity": 0.9}
    assert parse_bounds(["motion=0.9", "motion=0.4,motion=0.6"], "--max") == {"motion": 0.4}
    for text in ("identity=inf", "identity=nan"):
        with pytest.raises(UsageError, match="is not measure=number"):
            parse_bounds([text], "--min")

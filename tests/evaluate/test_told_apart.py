"""The gain must separate people: a reward for looking like anybody raises an alarm, an honest one does not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.evaluate.conftest import LEFT, RIGHT, A, B, person

from idgrpo.evaluate.compare import compare
from idgrpo.evaluate.config import StatisticsConfig
from idgrpo.evaluate.diagnostics import diagnose
from idgrpo.evaluate.document import MeasureInfo, Report, SampleDocument, VariantDocument
from idgrpo.evaluate.measure import load_measures

MEASURES = load_measures(["identity", "separation", "worst", "margin", "confusion", "swap_rate", "coverage", "drift"])
INFOS = [m.info for m in MEASURES.values()]
CONFIG = StatisticsConfig(num_resamples=600)
NUM_CASES, NUM_CANDIDATES = 24, 8
BLANK = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)  # only who is seen matters here


def clip_of(rng: np.random.Generator) -> Callable:
    """Draw two people who resemble themselves, the other person and nobody, each in a random share."""
    people = []
    for own, other in ((A, B), (B, A)):
        vector = rng.uniform(0.2, 0.8) * own + rng.uniform(0.0, 0.6) * other + 0.7 * person(int(rng.integers(2, 8)))
        people.append(vector / np.linalg.norm(vector))
    return lambda frame: [(*LEFT, people[0]), (*RIGHT, people[1])]


def anybody(values: dict[str, float], subject) -> float:
    """Reward the mean similarity of everybody to everybody who was asked for."""
    return float(np.nanmean(subject.cosines))


def honest(values: dict[str, float], subject) -> float:
    """Reward people for being themselves and nobody else."""
    return values["separation"]


def tuned_by(reward: Callable, make_subject) -> Report:
    """Compare first candidates (base) with those that a reward likes best (tuned), case by case."""
    rng, rows = np.random.default_rng(0), {"base": {}, "tuned": {}}
    for case in range(NUM_CASES):
        subjects = [make_subject(clip_of(rng), [A, B], clip=BLANK) for _ in range(NUM_CANDIDATES)]
        values = [{name: function(s) for name, function in MEASURES.items()} for s in subjects]
        best = int(np.argmax([reward(v, s) for v, s in zip(values, subjects, strict=True)]))
        rows["base"][f"case-{case}", 0], rows["tuned"][f"case-{case}", 0] = values[0], values[best]
    return report_of(rows)


def report_of(rows: dict[str, dict]) -> Report:
    samples = [
        SampleDocument(variant=v, case_id=c, seed=s, prompt="", video="", references=[], values=values)
        for v, table in rows.items()
        for (c, s), values in table.items()
    ]
    report = Report(
        title="", finder="planted", headline="identity", headlines=["identity", "separation"], reference_variant="base",
        variants=[VariantDocument(name=v, base="b", policy=None, num_samples=len(rows[v])) for v in rows],
        num_cases=len(rows["base"]), num_seeds=1, measures=INFOS, means={}, samples=samples,
        comparisons={"tuned": compare(rows["base"], rows["tuned"], INFOS, CONFIG, ["identity", "separation"])},
    )  # fmt: skip
    return report.model_copy(update={"diagnostics": diagnose(report)})


def verdict_of(report: Report, name: str = "People told apart"):
    return next(v for v in report.diagnostics if v.name == name)


def test_a_reward_for_looking_like_anybody_raises_the_alarm(make_subject):
    report = tuned_by(anybody, make_subject)
    found = report.comparisons["tuned"]
    assert found["identity"].verdict == "better"  # this is how it passes for a gain
    assert found["separation"].verdict != "better"
    verdict = verdict_of(report)
    assert verdict.level == "alarm"
    assert "confusion" in verdict.text


def test_an_honest_gain_does_not(make_subject):
    report = tuned_by(honest, make_subject)
    found = report.comparisons["tuned"]
    assert found["identity"].verdict == found["separation"].verdict == "better"
    assert verdict_of(report).level == "ok"


def rows_with(changes: dict[str, float], spread: float, num: int = 12) -> dict[str, dict]:
    base = {(f"c{i}", 0): {"confusion": 0.2, "margin": 0.2, "swap_rate": 0.2} for i in range(num)}
    tuned = {
        key: {name: value + changes[name] + spread * (-1) ** i for name, value in values.items()}
        for i, (key, values) in enumerate(base.items())
    }
    return {"base": base, "tuned": tuned}


STILL = {"confusion": -0.05, "margin": 0.05, "swap_rate": -0.05}


@pytest.mark.parametrize(
    ("changes", "spread", "level"),
    [
        (STILL, 0.02, "ok"),
        ({**STILL, "confusion": 0.1}, 0.02, "alarm"),
        ({**STILL, "margin": -0.1}, 0.02, "alarm"),
        ({**STILL, "swap_rate": 0.1}, 0.02, "alarm"),
        ({"confusion": 0.08, "margin": -0.08, "swap_rate": 0.08}, 0.25, "watch"),
    ],
)
def test_each_sign_is_enough_and_all_together_within_noise_are_watched(changes, spread, level):
    assert verdict_of(report_of(rows_with(changes, spread))).level == level


def test_too_few_cases_alarm_nobody():
    worse = {"confusion": 0.1, "margin": -0.1, "swap_rate": 0.1}
    assert verdict_of(report_of(rows_with(worse, 0.01, num=4))).level == "unknown"


@pytest.mark.parametrize(("detail", "level"), [(1.0, "ok"), (0.85, "watch"), (0.5, "alarm")])
def test_unreadable_faces_are_said_before_whose_they_are(detail, level):
    infos = [m.info for m in load_measures(["coverage", "face_detail", "identity"]).values()]
    rng = np.random.default_rng(0)
    base = {(f"c{i}", 0): {"coverage": 0.9, "face_detail": 0.1, "identity": 0.5} for i in range(12)}
    tuned = {
        key: {**values, "identity": 0.2, "face_detail": 0.1 * detail + 0.002 * rng.normal()}
        for key, values in base.items()
    }
    report = report_of({"base": base, "tuned": tuned}).model_copy(
        update={"measures": infos, "comparisons": {"tuned": compare(base, tuned, infos, CONFIG)}}
    )
    verdict = diagnose(report)[0]
    assert (verdict.name, verdict.level) == ("Readable faces", level)
    assert "seen in 90%" in verdict.text
    assert ("worse picture" in verdict.text) == (level != "ok")


@pytest.mark.parametrize(("shift", "level"), [(-0.03, "ok"), (0.05, "watch"), (0.08, "alarm")])
def test_what_one_of_ten_checks_shows_by_chance_is_watched(shift, level):
    """An honest policy that changed nothing alarmed: confusion +0.019 (+0.001 to +0.039), p = 0.056, corrected 0.45."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=96)
    noise = 0.18 * (noise - noise.mean()) / noise.std()
    base = {(f"c{i}", 0): {"confusion": 0.2, "worst": 0.3} for i in range(96)}
    tuned = {
        key: {"confusion": 0.2 + shift * 0.9 + one, "worst": 0.3 - shift * 0.9 - one}
        for key, one in zip(base, noise, strict=True)
    }
    report = report_of({"base": base, "tuned": tuned})
    for name in ("People told apart", "Worst person"):
        verdict = verdict_of(report, name)
        assert verdict.level == level
        assert ("may be chance" in verdict.text) == (level == "watch")


def moved(mean: float, spread: float) -> np.ndarray:
    """Draw 32 differences with exactly this mean and standard deviation."""
    noise = np.random.default_rng(5).normal(size=32)
    return mean + spread * (noise - noise.mean()) / noise.std()


def judged(names: list[str], changes: dict[str, np.ndarray], base: float, verdict: str):
    """Judge a report with these measures, whose differences [case] are given; a reward is one more of them."""
    infos = [m.info for m in load_measures([n for n in names if n != "reward"]).values()]
    infos += [MeasureInfo("reward", "Reward", "higher", "reward", "", True)] * ("reward" in names)
    rows = {"base": {}, "tuned": {}}
    for case in range(32):
        rows["base"][f"c{case}", 0] = dict.fromkeys(names, base)
        rows["tuned"][f"c{case}", 0] = {n: base + (changes[n][case] if n in changes else 0.0) for n in names}
    found = compare(rows["base"], rows["tuned"], infos, CONFIG, ["identity", "separation"])
    report = report_of({v: {k: {"coverage": 1.0} for k in table} for v, table in rows.items()})
    report = report.model_copy(update={"measures": infos, "comparisons": {"tuned": found}})
    return next(v for v in diagnose(report) if v.name == verdict)


@pytest.mark.parametrize(
    ("coverage", "detail", "level", "words"),
    [
        ((-0.15, 0.38), (0.0, 0.01), "watch", "which may be chance"),  # large, and perhaps chance
        ((-0.005, 0.004), (-0.32, 1.5), "watch", "worse picture"),  # sure and small beside large and nothing
        ((-0.15, 0.10), (0.0, 0.01), "alarm", "worse picture"),
    ],
)
def test_a_size_alarms_only_with_the_measure_that_surely_fell(coverage, detail, level, words):
    changes = {"coverage": moved(*coverage), "face_detail": moved(*detail)}
    verdict = judged(["coverage", "face_detail"], changes, 0.9, "Readable faces")
    assert verdict.level == level and words in verdict.text


@pytest.mark.parametrize(
    ("reward", "identity", "separation", "level", "text"),
    [
        ((0.2, 0.5), (-0.2, 0.1), (0.0, 0.1), "watch", "reward rose while identity fell, which may be chance"),
        ((0.2, 0.1), (-0.2, 0.1), (-0.1, 0.25), "alarm", "reward rose while identity fell: the reward is being gamed"),
        ((0.0, 0.1), (-0.2, 0.1), (0.0, 0.1), "watch", "the reward itself did not rise and identity fell"),
    ],
)
def test_only_what_is_sure_is_said_of_a_gamed_reward(reward, identity, separation, level, text):
    changes = {"reward": moved(*reward), "identity": moved(*identity), "separation": moved(*separation)}
    verdict = judged(["identity", "separation", "reward"], changes, 0.4, "Reward against identity")
    assert (verdict.level, verdict.text) == (level, text)

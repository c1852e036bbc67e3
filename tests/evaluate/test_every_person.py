"""A reward that pays for one person raises an alarm though nobody falls; honest rewards do not."""

import numpy as np
import pytest
from tests.evaluate.conftest import A, B
from tests.evaluate.test_told_apart import BLANK, CONFIG, INFOS, MEASURES, clip_of

from idgrpo.evaluate.compare import compare
from idgrpo.evaluate.diagnostics import ENOUGH_CASES, _favoured_place, diagnose
from idgrpo.evaluate.document import Report, SampleDocument, VariantDocument

NUM_CASES, NUM_CANDIDATES = 24, 8


def tuned_by(reward, make_subject) -> Report:
    """Compare first candidates (base) with those that a reward likes best (tuned), case by case."""
    rng, values, samples = np.random.default_rng(0), {"base": {}, "tuned": {}}, []
    for case in range(NUM_CASES):
        subjects = [make_subject(clip_of(rng), [A, B], clip=BLANK) for _ in range(NUM_CANDIDATES)]
        best = max(subjects, key=lambda subject: reward(subject.match.similarity))
        for variant, subject in (("base", subjects[0]), ("tuned", best)):
            found = {name: function(subject) for name, function in MEASURES.items()}
            values[variant][f"case-{case}", 0] = found
            people = {"identity": [float(v) for v in subject.match.similarity]}
            samples.append(
                SampleDocument(
                    variant=variant, case_id=f"case-{case}", seed=0, prompt="", video="", references=[], values=found, people=people
                )
            )  # fmt: skip
    report = Report(
        title="", finder="planted", headline="identity", headlines=["identity", "separation"], reference_variant="base",
        variants=[VariantDocument(name=v, base="b", policy=None, num_samples=NUM_CASES) for v in values],
        num_cases=NUM_CASES, num_seeds=1, measures=INFOS, means={}, samples=samples,
        comparisons={"tuned": compare(values["base"], values["tuned"], INFOS, CONFIG, ["identity", "separation"])},
    )  # fmt: skip
    return report.model_copy(update={"diagnostics": diagnose(report)})


def verdict_of(report: Report):
    return next(v for v in report.diagnostics if v.name == "Every person")


@pytest.mark.parametrize("reward", [lambda people: people[0], max], ids=["the first person", "whoever is best"])
def test_a_reward_for_one_person_raises_the_alarm(make_subject, reward):
    report = tuned_by(reward, make_subject)
    assert report.comparisons["tuned"]["identity"].difference.value > 0.05  # this is how it passes for a gain
    verdict = verdict_of(report)
    assert verdict.level == "alarm" and "one person is paid for" in verdict.text


@pytest.mark.parametrize("reward", [np.mean, min], ids=["identity", "worst"])
def test_a_reward_for_everybody_does_not(make_subject, reward):
    assert verdict_of(tuned_by(reward, make_subject)).level != "alarm"


def with_people(report: Report, base: np.ndarray, tuned: np.ndarray) -> Report:
    """Put similarities [case, person] in place of those that were measured; the worst person is what they say."""
    sides = {"base": base, "tuned": tuned}
    samples = [
        s.model_copy(update={"people": {"identity": sides[s.variant][int(s.case_id.removeprefix("case-"))].tolist()}})
        for s in report.samples
    ]
    values = {
        name: {(f"case-{case}", 0): {"worst": float(people.min())} for case, people in enumerate(side)}
        for name, side in sides.items()
    }
    infos = [info for info in INFOS if info.name == "worst"]
    found = compare(values["base"], values["tuned"], infos, CONFIG, ["worst"])
    return report.model_copy(update={"samples": samples, "comparisons": {"tuned": found}})


@pytest.mark.parametrize(
    ("gains", "start", "level"),
    [
        ((0.16, 0.0), (0.4, 0.4), "alarm"),
        ((0.0, 0.16), (0.4, 0.4), "alarm"),
        ((0.16, 0.16), (0.4, 0.4), "ok"),
        ((0.12, 0.0), (0.25, 0.4), "ok"),
    ],
    ids=["first", "second", "everybody", "the first catches up"],
)
def test_a_place_in_the_prompt_that_alone_gains_raises_the_alarm(make_subject, gains, start, level):
    """The most similar person need not gain for it: in half of the clips the first one was the worst. It passed as ok."""
    rng = np.random.default_rng(3)
    base = np.array(start) + 0.2 * rng.standard_normal((NUM_CASES, 2))
    tuned = base + np.array(gains) + 0.1 * rng.standard_normal((NUM_CASES, 2))
    report = with_people(tuned_by(np.mean, make_subject), base, tuned)
    (verdict,) = [v for v in diagnose(report) if v.name == "Every person"]
    assert verdict.level == level, verdict
    if level == "alarm":
        assert f"person {1 + int(gains[1] > gains[0])} of the prompt gains" in verdict.text
        few = [s for s in report.samples if int(s.case_id.removeprefix("case-")) < ENOUGH_CASES - 1]
        assert all(
            v.level != "alarm" for v in diagnose(report.model_copy(update={"samples": few})) if v.name == "Every person"
        )


def test_too_few_cases_are_said(make_subject):
    report = tuned_by(max, make_subject)
    few = [s for s in report.samples if s.case_id in ("case-0", "case-1")]
    report = report.model_copy(update={"samples": few})
    (verdict,) = [v for v in diagnose(report) if v.name == "Every person"]
    assert verdict.level == "unknown" and "2 cases are too few" in verdict.text


def test_a_few_cases_are_no_alarm(make_subject):
    """The gain of a worst person hardly shows in a few cases: that it is not seen used to alarm."""
    report = tuned_by(max, make_subject)
    few = [s for s in report.samples if int(s.case_id.removeprefix("case-")) < 15]
    (verdict,) = [v for v in diagnose(report.model_copy(update={"samples": few})) if v.name == "Every person"]
    assert verdict.level == "watch" and "one person is paid for" in verdict.text


def test_a_place_that_surely_gains_is_not_hidden_by_a_spread_that_may_be_chance(make_subject):
    """The spread was asked first, and its "watch" was the answer."""
    rng = np.random.default_rng(46)
    honest = tuned_by(np.mean, make_subject)
    found = set()
    for _ in range(40):
        base = 0.4 + 0.12 * rng.standard_normal((NUM_CASES, 2))
        report = with_people(honest, base, base + np.array([0.1, 0.0]) + 0.1 * rng.standard_normal((NUM_CASES, 2)))
        (verdict,) = [v for v in diagnose(report) if v.name == "Every person"]
        favoured = _favoured_place(report, "tuned")
        found.add((favoured is not None, verdict.level))
    assert (True, "watch") not in found and (True, "alarm") in found and (False, "watch") in found

"""Accuracy, threshold, calibration and the teacher's choice on numbers worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idgrpo.errors import DataError
from idgrpo.records.models import Preference, Reference
from idgrpo.reward.metrics import (
    Judged,
    accuracy_decided,
    accuracy_interval,
    accuracy_with_ties,
    best_tie_threshold,
    calibration,
    report,
    win_probability,
)
from idgrpo.reward.teacher import filter_by_teacher


def judged(label: str, gap: float, **fields: object) -> Judged:
    values = {"source": "human", "pair_id": f"{label}{gap}", **fields}
    preference = Preference(
        case_id="c",
        prompt="p",
        references=[Reference(person="p", images=["x.png"])],
        video_a="a",
        video_b="b",
        label=label,
        **values,
    )
    return Judged(preference, gap)


def test_decided_accuracy_counts_zero_as_half() -> None:
    pairs = [judged("a", 1.0), judged("b", 1.0), judged("a", 0.0), judged("tie", 9.0), judged("both_bad", 9.0)]
    assert accuracy_decided(pairs) == pytest.approx(0.5)
    assert accuracy_decided([judged("tie", 1.0)]) is None


def test_the_interval_of_few_pairs_is_wide() -> None:
    # By hand: Wilson's interval of 8 of 10 is 0.490 to 0.943, of 80 of 100 0.711 to 0.867.
    for num, low, high in ((10, 0.490, 0.943), (100, 0.711, 0.867)):
        pairs = [judged("a", 1.0 if i < 0.8 * num else -1.0) for i in range(num)]
        assert accuracy_interval(pairs) == pytest.approx([low, high], abs=1e-3)
    assert accuracy_interval([judged("tie", 1.0)]) == [0.0, 1.0]
    assert report(pairs, 0.1)["accuracy_decided_ci95"] == accuracy_interval(pairs)


def test_threshold_separates_ties_on_validation() -> None:
    pairs = [judged("tie", 0.1), judged("tie", -0.2), judged("a", 0.5), judged("b", -0.6), judged("both_bad", 0.05)]
    threshold = best_tie_threshold(pairs)
    assert 0.2 < threshold < 0.5
    assert accuracy_with_ties(pairs, threshold) == 1.0


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "tie"]), st.integers(-6, 6)), min_size=1, max_size=30))
def test_threshold_is_the_best_of_all(rows: list[tuple[str, int]]) -> None:
    pairs = [judged(label, gap / 4) for label, gap in rows]
    best = max(accuracy_with_ties(pairs, step / 8) for step in range(16))
    assert accuracy_with_ties(pairs, best_tie_threshold(pairs)) == pytest.approx(best)


def test_win_probability_is_conditional_on_a_decision() -> None:
    assert win_probability(0.0, 5.0) == 0.5
    assert win_probability(1.3) == pytest.approx(1 / (1 + math.exp(-1.3)))
    first, second = 1 / (1 + 5 * math.exp(-2)), 1 / (1 + 5 * math.exp(2))
    assert win_probability(2.0, 5.0) == pytest.approx(first / (first + second))


def test_calibration_of_a_model_that_is_half_right() -> None:
    bins = calibration([judged("a", 2.0), judged("b", 2.0), judged("tie", 2.0)])
    assert len(bins) == 1 and bins[0]["num"] == 2
    assert bins[0]["observed"] == 0.5 and bins[0]["stated"] == pytest.approx(win_probability(2.0))


def test_report_groups_pairs() -> None:
    pairs = [
        judged("a", 1.0, source="synthetic", distortion="swap", strength=1.0, pair_id="1"),
        judged("a", -1.0, source="synthetic", distortion="blur", strength=0.1, pair_id="2"),
        judged("tie", 0.1, votes={"tie": 2, "a": 1}, pair_id="3"),
    ]
    document = report(pairs, 0.5)
    assert document["num_pairs"] == 3 and document["num_decided"] == 2
    assert document["by_distortion"]["swap"]["accuracy_decided"] == 1.0
    assert document["by_distortion"]["blur"]["accuracy_decided"] == 0.0
    assert set(document["by_strength"]) == {"0.00-0.25", "0.75-1.00"}
    assert document["by_source"]["human"]["accuracy_decided"] is None
    assert document["by_annotators_agree"]["most"]["accuracy_with_ties"] == 1.0
    assert report([], 0.0)["accuracy_decided"] is None


def test_teacher_keeps_what_it_agrees_with() -> None:
    human = [judged("a", 1.0, pair_id="h").preference]
    right = judged("a", 2.0, source="synthetic", distortion="swap", pair_id="r")
    wrong = judged("b", 2.0, source="synthetic", distortion="swap", pair_id="w")
    fitted = []
    kept, document = filter_by_teacher(
        [*human, right.preference, wrong.preference],
        human,
        fit=fitted.extend,
        judge=lambda pairs: [Judged(p, 2.0) for p in pairs],
        seed=0,
    )
    assert [p.pair_id for p in kept] == ["h", "r"] and fitted == human
    assert document["kept_share_by_distortion"] == {"swap": 0.5} and len(document["audit"]) == 2
    assert all(entry["video_a"] == "a" and entry["video_b"] == "b" for entry in document["audit"])
    with pytest.raises(DataError, match="0 are there"):
        filter_by_teacher(human, human, fit=fitted.extend, judge=lambda pairs: [], seed=0)

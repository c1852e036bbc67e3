import math
import random
from collections import Counter

import pytest
from pydantic import ValidationError

from idgrpo.annotate.config import AnnotatorConfig, OracleConfig
from idgrpo.annotate.oracle import simulate_votes
from idgrpo.annotate.sides import a_is_left, meant_to_shown, shown_to_meant
from idgrpo.errors import DataError

EXACT = AnnotatorConfig(skill=1.0, noise=0.0, tie_width=0.05)


def test_exact_annotators_report_the_truth(make_pair):
    gaps = {"p0": 0.3, "p1": -0.3, "p2": 0.01}
    votes = list(
        simulate_votes(map(make_pair, gaps), lambda p: gaps[p.pair_id], OracleConfig(annotator=EXACT, repeat_share=1))
    )
    assert {v.pair_id: v.answer for v in votes} == {"p0": "a", "p1": "b", "p2": "tie"}
    assert Counter(v.kind for v in votes) == {"plain": 9, "repeat": 3}
    for vote in votes:
        assert vote.answer == shown_to_meant(vote.shown, vote.a_is_left)
    first = {(v.annotator, v.pair_id): v for v in votes if v.kind == "plain"}
    for vote in votes:
        if vote.kind == "repeat":
            assert vote.a_is_left != first[vote.annotator, vote.pair_id].a_is_left


def test_same_seed_same_votes_and_another_seed_others(make_pair):
    pairs = [make_pair(f"p{i}") for i in range(30)]
    config = OracleConfig(annotator=AnnotatorConfig(skill=0.8, laziness=0.2, skip_rate=0.1))
    votes = [list(simulate_votes(pairs, lambda p: 0.1, config)) for _ in range(2)]
    assert votes[0] == votes[1]
    other = list(simulate_votes(pairs, lambda p: 0.1, config.model_copy(update={"seed": 1})))
    assert [v.answer for v in other] != [v.answer for v in votes[0]]
    assert len({v.vote_id for v in votes[0]}) == len(votes[0])


def test_overlap_spreads_votes_evenly(make_pair):
    config = OracleConfig(num_annotators=5, overlap=2, repeat_share=0)
    votes = list(simulate_votes([make_pair(f"p{i}") for i in range(50)], lambda p: 0.2, config))
    assert set(Counter(v.annotator for v in votes).values()) == {20}
    for pair, count in Counter(v.pair_id for v in votes).items():
        assert count == 2 and len({v.annotator for v in votes if v.pair_id == pair}) == 2


@pytest.mark.parametrize(
    ("habits", "measure", "expected"),
    [
        (AnnotatorConfig(skill=0.8, noise=0), lambda v: v.answer == "a", 0.8),
        (AnnotatorConfig(skill=1, noise=0, laziness=0.4), lambda v: v.seconds <= 1, 0.4),
        (AnnotatorConfig(skill=1, noise=0, side_bias=0.6), lambda v: v.shown == "left", 0.6 + 0.4 / 2),
        (AnnotatorConfig(skill=1, noise=0, side_bias=-0.6), lambda v: v.shown == "right", 0.6 + 0.4 / 2),
        (AnnotatorConfig(skill=1, noise=0, skip_rate=0.3), lambda v: v.answer == "skip", 0.3),
        (AnnotatorConfig(skill=1, noise=0, tie_width=1, both_bad_share=0.25), lambda v: v.answer == "both_bad", 0.25),
        (AnnotatorConfig(skill=1, noise=0, tie_width=1), lambda v: v.answer == "tie", 1.0),
    ],
)
def test_habits_show_at_their_rate(make_pair, habits, measure, expected):
    num = 3000
    config = OracleConfig(num_annotators=1, overlap=1, annotator=habits, repeat_share=0)
    pair = make_pair("p")
    votes = simulate_votes((pair.model_copy(update={"pair_id": f"p{i}"}) for i in range(num)), lambda p: 0.5, config)
    found = sum(map(measure, votes)) / num
    assert abs(found - expected) <= 4 * math.sqrt(expected * (1 - expected) / num) + 1e-9


def test_sides_balance_in_every_block():
    for block in (2, 8):
        left = [a_is_left(0, "anna", i, block) for i in range(block * 20)]
        assert all(sum(left[i : i + block]) == block // 2 for i in range(0, len(left), block))
    odd = [a_is_left(0, "anna", i, 5) for i in range(40)]
    assert sum(odd) == 20
    assert [a_is_left(0, "anna", i, 8) for i in range(64)] != [a_is_left(0, "bert", i, 8) for i in range(64)]


def test_answers_translate_there_and_back():
    for answer in ("a", "b", "tie", "both_bad", "skip"):
        for left in (True, False):
            assert shown_to_meant(meant_to_shown(answer, left), left) == answer


def test_a_gap_that_is_no_number_is_refused(make_pair):
    with pytest.raises(DataError, match="not a finite number"):
        list(simulate_votes([make_pair("p")], lambda p: math.nan, OracleConfig()))


def test_impossible_panels_are_refused():
    with pytest.raises(ValidationError, match="nearest valid: overlap=2"):
        OracleConfig(num_annotators=2, overlap=3)
    with pytest.raises(ValidationError, match="at most 1"):
        AnnotatorConfig(laziness=0.8, side_bias=-0.3)


def test_draws_do_not_touch_the_global_generator(make_pair):
    random.seed(3)
    expected = random.random()
    random.seed(3)
    list(simulate_votes([make_pair("p")], lambda p: 0.1, OracleConfig()))
    assert random.random() == expected

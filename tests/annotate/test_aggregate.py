import numpy as np
import pytest

from idgrpo.annotate.aggregate import decide_labels, majority_labels, to_preferences
from idgrpo.annotate.config import AggregateConfig, AnnotatorConfig, OracleConfig
from idgrpo.annotate.habits import estimate_habits
from idgrpo.annotate.oracle import simulate_votes
from idgrpo.annotate.table import CLASSES, vote_table
from idgrpo.errors import DataError

MAJORITY = AggregateConfig(method="majority")


@pytest.mark.parametrize(
    ("counts", "label"),
    [
        ((2, 1, 0, 0), "a"),
        ((0, 2, 1, 0), "b"),
        ((1, 1, 0, 0), "tie"),
        ((1, 0, 1, 0), "tie"),
        ((0, 0, 1, 1), "both_bad"),
        ((1, 1, 1, 1), "tie"),
        ((0, 1, 0, 3), "both_bad"),
        ((1, 0, 0, 1), "tie"),
    ],
)
def test_majority(counts, label):
    assert CLASSES[majority_labels(np.array([counts]))[0]] == label


@pytest.mark.parametrize("method", ["majority", "annotators"])
def test_votes_become_preferences_with_their_counts(make_pair, make_vote, method):
    votes = [make_vote("p1", who, what) for who, what in (("x", "a"), ("y", "a"), ("z", "b"))]
    votes += [make_vote("p2", who, "tie") for who in "xyz"] + [make_vote("p3", "x", "skip")]
    verdicts = decide_labels(votes, AggregateConfig(method=method), pairs=["p0", "p1", "p2", "p3"])
    preferences = list(to_preferences(map(make_pair, ("p0", "p1", "p2", "p3")), verdicts, by="oracle"))
    assert [(p.pair_id, p.label, p.votes) for p in preferences] == [
        ("p1", "a", {"a": 2, "b": 1}),
        ("p2", "tie", {"tie": 3}),
    ]
    assert preferences[0].origin["by"] == "oracle" and preferences[0].source == "human"
    assert verdicts.left_out == {"too few votes": 2}


def test_repeats_gold_and_second_deliveries_do_not_count(make_vote):
    votes = [make_vote("p", "x", "a"), make_vote("p", "x", "b", "repeat"), make_vote("p", "y", "b", "gold")]
    verdicts = decide_labels([*votes, votes[0]], MAJORITY)
    assert verdicts.counts.tolist() == [[1, 0, 0, 0]]
    with pytest.raises(DataError, match="stands twice"):
        decide_labels([votes[0], votes[0].model_copy(update={"seconds": 1.0})], MAJORITY)


def test_unsure_pairs_can_be_left_out(make_pair, make_vote):
    votes = [make_vote("p1", "x", "a"), make_vote("p1", "y", "b"), make_vote("p2", "x", "a"), make_vote("p2", "y", "a")]
    verdicts = decide_labels(votes, AggregateConfig(method="majority", min_confidence=0.9))
    assert [p.pair_id for p in to_preferences(map(make_pair, ("p1", "p2")), verdicts)] == ["p2"]
    assert verdicts.left_out == {"too unsure": 1}


def test_votes_on_unknown_pairs_are_an_error(make_pair, make_vote):
    verdicts = decide_labels([make_vote("stranger", "x", "a")], MAJORITY)
    with pytest.raises(DataError, match="'stranger'"):
        list(to_preferences([make_pair("p1")], verdicts))


def test_the_annotator_model_beats_majority_when_skills_differ(make_pair):
    rng = np.random.default_rng(0)
    truth = {f"p{i}": float(rng.choice([-1.0, 1.0])) for i in range(600)}
    panel = [AnnotatorConfig(skill=skill, noise=0, tie_width=0) for skill in (0.97, 0.6, 0.55, 0.55, 0.6)]
    votes = list(
        simulate_votes(map(make_pair, truth), lambda p: truth[p.pair_id], OracleConfig(panel=panel, overlap=5))
    )
    right = {}
    for method in ("majority", "annotators"):
        verdicts = decide_labels(votes, AggregateConfig(method=method))
        hits = [
            CLASSES[k] == ("a" if truth[n] > 0 else "b")
            for n, k in zip(verdicts.table.pairs, verdicts.label, strict=True)
        ]
        right[method] = np.mean(hits)
    assert right["annotators"] > 0.94 > right["majority"] + 0.1


def test_swapping_the_names_of_the_clips_swaps_the_result(make_vote):
    rng = np.random.default_rng(1)
    answers = {(f"p{i}", who): rng.choice(["a", "b", "tie"], p=[0.6, 0.2, 0.2]) for i in range(60) for who in "xyz"}
    mirror = {"a": "b", "b": "a", "tie": "tie"}
    plain = estimate_habits(vote_table(make_vote(*key, what) for key, what in answers.items()))
    swapped = estimate_habits(vote_table(make_vote(*key, mirror[what]) for key, what in answers.items()))
    np.testing.assert_allclose(plain.posterior[:, [1, 0, 2, 3]], swapped.posterior, atol=1e-9)
    np.testing.assert_allclose(plain.prior[0], plain.prior[1])
    np.testing.assert_allclose(plain.confusion.sum(2), 1.0)

from collections import Counter

import pytest

from idgrpo.annotate.config import PairsConfig
from idgrpo.annotate.pairs import make_pairs
from idgrpo.errors import DataError


def test_all_pairs_of_a_case_and_none_across_cases(make_sample):
    samples = [make_sample(case, seed) for case in ("c1", "c2") for seed in range(4)]
    pairs = list(make_pairs(samples, PairsConfig()))
    assert len(pairs) == 2 * 6
    assert len({pair.pair_id for pair in pairs}) == 12
    for pair in pairs:
        assert pair.video_a.startswith(pair.case_id) and pair.video_b.startswith(pair.case_id)
        assert pair.video_a != pair.video_b


def test_per_case_keeps_that_many_and_depends_on_the_seed_only(make_sample):
    samples = [make_sample(f"c{i}", seed) for i in range(10) for seed in range(5)]
    kept = [p.pair_id for p in make_pairs(samples, PairsConfig(per_case=2))]
    assert len(kept) == 20
    assert kept == [p.pair_id for p in make_pairs(samples, PairsConfig(per_case=2))]
    assert kept != [p.pair_id for p in make_pairs(samples, PairsConfig(per_case=2, seed=1))]
    reversed_order = sorted(p.pair_id for p in make_pairs(samples[::-1], PairsConfig(per_case=2)))
    assert sorted(kept) == reversed_order


@pytest.mark.parametrize(("across", "expected"), [("any", 6), ("policy", 4), ("base", 4), ("source", 4)])
def test_across(make_sample, across, expected):
    base, policy = ("phantom", None) if across == "base" else ("tiny-vace", "tuned@v1")
    samples = [make_sample("c", s) for s in range(2)] + [make_sample("c", s, base, policy) for s in range(2)]
    assert len(list(make_pairs(samples, PairsConfig(across=across)))) == expected


def test_a_does_not_stand_for_a_source(make_sample):
    samples = [make_sample(f"c{i}", 0, policy=p) for i in range(300) for p in (None, "tuned@v1")]
    who = Counter(pair.origin["a"]["policy"] for pair in make_pairs(samples, PairsConfig()))
    assert 110 < who[None] < 190


def test_pair_id_names_no_generator(make_sample):
    samples = [make_sample("c", 0), make_sample("c", 1, policy="tuned")]
    (pair,) = make_pairs(samples, PairsConfig())
    assert set(pair.pair_id) <= set("0123456789abcdef")


def test_least_sure_pairs_come_first(make_sample):
    samples = [make_sample("c", seed) for seed in range(4)]
    scores = dict(zip((s.id for s in samples), (0.0, 5.0, 5.1, 9.0), strict=True))
    (pair,) = make_pairs(samples, PairsConfig(per_case=1), scores=scores)
    assert {pair.origin["a"]["seed"], pair.origin["b"]["seed"]} == {1, 2}
    with pytest.raises(DataError, match="no score"):
        list(make_pairs(samples, PairsConfig(per_case=1), scores={}))


def test_nothing_to_compare_is_an_error_that_says_what_to_do(make_sample):
    with pytest.raises(DataError, match="at most 1 samples of one case") as caught:
        list(make_pairs([make_sample("c1", 0), make_sample("c2", 0)], PairsConfig()))
    assert "--samples" in caught.value.fix

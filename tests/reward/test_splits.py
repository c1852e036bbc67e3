"""Splits keep people apart; drawing orders follow the mix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idgrpo.errors import DataError
from idgrpo.records.models import Preference, Reference
from idgrpo.reward.data import draw_order, synthetic_share
from idgrpo.reward.splits import carve_validation, check_parts, people_of, split_by_identity


def pair(index: int, people: tuple[str, ...], split: str | None = None) -> Preference:
    return Preference(
        pair_id=f"pair-{index}",
        case_id="c",
        prompt="p",
        references=[Reference(person=name, images=["x.png"]) for name in people],
        video_a="a.mp4",
        video_b="b.mp4",
        label="a",
        source="human",
        split=split,
    )


@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=3, unique=True), min_size=3, max_size=120))
def test_no_person_is_in_two_parts(cases: list[list[int]]) -> None:
    pairs = [pair(i, tuple(f"p{n}" for n in people)) for i, people in enumerate(cases)]
    try:
        parts = split_by_identity(pairs)
    except DataError:
        return
    seen = [set().union(*(people_of(p) for p in part)) if part else set() for part in parts.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_shares_are_near_the_wish_and_nothing_is_lost() -> None:
    pairs = [pair(i, (f"p{i // 3}", f"q{i // 3}")) for i in range(600)]
    parts = split_by_identity(pairs, validation_share=0.1, test_share=0.2)
    assert sum(map(len, parts.values())) == 600
    assert 60 <= len(parts["validation"]) <= 63 and 120 <= len(parts["test"]) <= 123
    ids = {p.pair_id for p in parts["test"]}
    assert ids == {p.pair_id for p in split_by_identity(pairs[::-1], validation_share=0.1, test_share=0.2)["test"]}


def test_everybody_connected_deals_out_people() -> None:
    pairs = [pair(i, (f"p{i % 40}", f"p{(i * 7 + 1) % 40}")) for i in range(800) if i % 40 != (i * 7 + 1) % 40]
    parts = split_by_identity(pairs)
    assert all(parts.values())


def test_given_split_is_kept_or_refused() -> None:
    kept = split_by_identity([pair(0, ("a",), "train"), pair(1, ("b",), "test")])
    assert [len(part) for part in kept.values()] == [1, 0, 1]
    with pytest.raises(DataError, match="person a: train .pair pair-0. and test .pair pair-1."):
        split_by_identity([pair(0, ("a",), "train"), pair(1, ("a",), "test")])
    with pytest.raises(DataError, match="first: pair-1"):
        split_by_identity([pair(0, ("a",), "train"), pair(1, ("b",))])
    with pytest.raises(DataError, match="no pair is left to train on"):
        split_by_identity([pair(0, ("a",), "test")])


def test_parts_nobody_could_be_measured_on_are_refused() -> None:
    together = [pair(i, ("a", "b")) for i in range(20)]
    parts = carve_validation(split_by_identity(together), 0.1)
    with pytest.raises(DataError, match=r"no pair is left for validation.*2 people; 20 train, 0 validation, 0 test"):
        check_parts(parts, test_share=0.0)
    parts = {"train": together, "validation": [pair(20, ("c",))], "test": []}
    with pytest.raises(DataError, match="no pair is left for test.*3 people") as caught:
        check_parts(parts, test_share=0.1)
    assert "data.test_share=0" in caught.value.fix
    check_parts(parts, test_share=0.0)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_random_and_one_sided_mixes_keep_their_share(share: float) -> None:
    sources = ["human"] * 30 + ["synthetic"] * 50 + ["judge"] * 20
    order = draw_order(sources, 4000, mix="random", seed=2, random_share=share)
    for quarter in (order[k : k + 1000] for k in range(0, 4000, 1000)):  # the same share all along
        assert sum(sources[i] != "human" for i in quarter) / 1000 == pytest.approx(share, abs=0.05)
    assert {sources[i] for i in draw_order(sources, 200, mix="human-only", seed=2)} == {"human"}
    assert {sources[i] for i in draw_order(sources, 400, mix="synthetic-only", seed=2)} == {"synthetic", "judge"}


def test_cosine_starts_automatic_and_ends_human() -> None:
    assert synthetic_share("cosine", 0.0) == 1 and synthetic_share("cosine", 1.0) == pytest.approx(0, abs=1e-12)
    sources = ["human"] * 30 + ["synthetic"] * 50 + ["judge"] * 20
    order = draw_order(sources, 4000, mix="cosine", seed=1)
    tenth = [sum(sources[i] != "human" for i in order[k : k + 400]) / 400 for k in range(0, 4000, 400)]
    assert tenth[0] > 0.95 and tenth[-1] < 0.05
    assert tenth[4] == pytest.approx(0.58, abs=0.08)
    assert order == draw_order(sources, 4000, mix="cosine", seed=1) != draw_order(sources, 4000, mix="cosine", seed=2)


def test_rounds_show_every_pair_before_any_comes_again() -> None:
    order = draw_order(["human"] * 7, 21, mix="all", seed=0)
    assert all(sorted(order[k : k + 7]) == list(range(7)) for k in (0, 7, 14))
    only = draw_order(["human", "synthetic"] * 5, 10, mix="synthetic-only", seed=0)
    assert set(only) == {1, 3, 5, 7, 9}


def test_a_mix_without_its_source_is_refused() -> None:
    for mix in ("cosine", "random", "synthetic-only"):
        with pytest.raises(DataError, match="5 human and 0 automatic"):
            draw_order(["human"] * 5, 10, mix=mix, seed=0)

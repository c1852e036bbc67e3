from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from idgrpo.distort.config import BalanceConfig, DistortConfig
from idgrpo.distort.contract import NotPossible, Scene
from idgrpo.distort.identity import merge, swap_late
from idgrpo.distort.pair import STEADY, draw_strength, make_pair, order_of_kinds, plan_pair, visible_change
from idgrpo.distort.registry import entry_of
from idgrpo.people.painter import Identity
from idgrpo.tinyworld.oracle import track_scores
from idgrpo.tinyworld.painter import TinyPainter
from idgrpo.tinyworld.people import attributes_of
from idgrpo.video.read import read_image, read_video

PLAIN = {"both_sides": 0, "better_side": 0, "graded": 0, "mirrored": 0, "unsteady_better": 0}


def setting(**balance) -> DistortConfig:
    return DistortConfig(balance=BalanceConfig(**(PLAIN | balance)), strength={"tie_share": 0, "low": 0.8})


@pytest.fixture
def scene(tiny_samples) -> Scene:
    sample = tiny_samples[0]
    clip = read_video(Path(sample.video))
    portraits = [read_image(Path(r.images[0])) for r in sample.references]
    return Scene(clip, TinyPainter.open(sample, clip), portraits, sample.prompt)


def made(scene, name, config, seed=0):
    return make_pair(scene, plan_pair(name, entry_of(name), config, 0.0, np.random.default_rng(seed)))


def sides(pair):
    return (pair.a, pair.b) if pair.label == "a" else (pair.b, pair.a)


def test_strengths_stay_in_their_range_and_weak_ones_are_ties():
    config = DistortConfig(strength={"low": 0.4, "high": 0.7, "tie_share": 0.25, "tie_below": 0.1})
    drawn = [draw_strength(config, 0.0, np.random.default_rng(k)) for k in range(800)]
    ties = [s for s, tie in drawn if tie]
    rest = [s for s, tie in drawn if not tie]
    assert 0.2 < len(ties) / len(drawn) < 0.3 and min(ties) >= 0.02 and max(ties) <= 0.1
    assert 0.4 <= min(rest) < 0.43 and 0.67 < max(rest) <= 0.7


@pytest.mark.parametrize(("curriculum", "first", "last"), [("easy-first", 0.825, 0.475), ("hard-first", 0.475, 0.825)])
def test_a_curriculum_moves_the_strength_along_the_file(curriculum, first, last):
    config = DistortConfig(strength={"low": 0.3, "high": 1.0, "tie_share": 0, "curriculum": curriculum})

    def mean(position):
        return np.mean([draw_strength(config, position, np.random.default_rng(k))[0] for k in range(400)])

    assert mean(0.0) == pytest.approx(first, abs=0.02) and mean(1.0) == pytest.approx(last, abs=0.02)
    within = [draw_strength(config, 0.5, np.random.default_rng(k))[0] for k in range(400)]
    assert min(within) >= 0.3 and max(within) <= 1.0


def test_the_label_names_the_clean_side_and_falls_on_both(scene):
    labels = Counter()
    for seed in range(8):
        pair = made(scene, "blend", setting(), seed)
        labels[pair.label] += 1
        better, worse = sides(pair)
        assert torch.equal(better, scene.clip) and not torch.equal(worse, scene.clip)
    assert set(labels) == {"a", "b"}


def test_graded_pairs_damage_both_sides_one_less(scene, tiny_samples):
    people = [r.person for r in tiny_samples[0].references]
    pair = made(scene, "blend", setting(graded=1))
    better, worse = sides(pair)
    assert pair.graded < pair.strength and pair.better_by == "blend"
    scores = [float(track_scores(side, people).mean()) for side in (scene.clip, better, worse)]
    assert scores[0] > scores[1] > scores[2]


def test_an_unsteady_clip_wins_against_a_stranger_who_is_always_there(scene, tiny_samples):
    people = [r.person for r in tiny_samples[0].references]
    for name in ("swap_late", "flicker", "drop", "drift", "replace_late"):
        pair = made(scene, name, setting(unsteady_better=1), 2)
        assert (pair.name, pair.strength, pair.better_by) == (STEADY, 1.0, name)
        better, worse = sides(pair)
        assert not torch.equal(better, scene.clip)
        assert float(track_scores(better, people).mean()) > float(track_scores(worse, people).mean())


@pytest.mark.parametrize(("where", "expected"), [({"both_sides": 1}, "both"), ({"better_side": 1}, "better")])
def test_artefacts_come_on_both_sides_or_on_the_better_one(scene, where, expected):
    plain, with_artefact = made(scene, "replace", setting(), 1), made(scene, "replace", setting(**where), 1)
    assert with_artefact.plan.artefact_sides == expected and with_artefact.label == plain.label
    clean, damaged = sides(plain)
    better, worse = sides(with_artefact)
    assert not torch.equal(better, clean)
    assert torch.equal(worse, damaged) == (expected == "better")
    # Nobody is touched by the artefact.
    nobody = scene.regions.amax(1) < 0.02
    assert not ((better != clean).any(1) & ~nobody).any()


def test_controls_are_ties(scene):
    pair = made(scene, "control_background", setting(both_sides=1, graded=1))
    assert pair.label == "tie" and pair.artefact is None and pair.graded is None


def test_equal_sides_are_refused(scene):
    with pytest.raises(NotPossible, match="no trace"):
        made(scene, "control_reblend", setting())
    weak = DistortConfig(strength={"low": 0, "high": 0, "tie_share": 0, "tie_below": 0}, balance=BalanceConfig(**PLAIN))
    with pytest.raises(NotPossible, match="changes nothing"):
        made(scene, "blend", weak)


def test_kinds_are_tried_by_weight_and_only_where_possible():
    config = DistortConfig(mix={"swap_late": 3.0, "replace": 1.0, "renoise": 5.0, "blend": 0.0})
    first = Counter(order_of_kinds(config, 2, False, np.random.default_rng(k))[0] for k in range(600))
    assert set(first) == {"swap_late", "replace"} and first["swap_late"] / 600 == pytest.approx(0.75, abs=0.06)
    assert order_of_kinds(config, 1, False, np.random.default_rng(0)) == ["replace"]
    assert "renoise" in order_of_kinds(config, 1, True, np.random.default_rng(0))


def test_a_generator_gets_one_reference_replaced_and_both_sides_go_through_it(scene):
    calls = []

    def regenerate(clip, references, prompt, level, seed):
        calls.append((references, level, seed))
        return (clip.float() * (1 - level) + references[0].float().mean() * level).to(torch.uint8)

    with pytest.raises(NotPossible, match="no generator"):
        made(scene, "renoise", setting())
    slots = set()
    for seed in range(6):
        calls.clear()
        # This stand-in reads the first reference only: a change of the second changes nothing.
        with suppress(NotPossible):
            made(replace(scene, regenerate=regenerate), "renoise", setting(), seed)
        (right, level, draw), (wrong, same_level, same_draw) = calls
        assert (level, draw) == (same_level, same_draw) and 0.5 < level <= 0.85
        assert all(torch.equal(a, b) for a, b in zip(right, scene.references, strict=True))
        changed = [not torch.equal(a, b) for a, b in zip(right, wrong, strict=True)]
        assert sum(changed) == 1
        slots.add(changed.index(True))
    assert slots == {0, 1}


def test_a_change_that_hardly_shows_makes_no_order(scene):
    faint = DistortConfig(strength={"low": 0.06, "high": 0.08, "tie_share": 0}, balance=BalanceConfig(**PLAIN))
    with pytest.raises(NotPossible, match="hardly shows"):
        made(scene, "attribute", faint)
    anyway = faint.model_copy(update={"strength": faint.strength.model_copy(update={"visible": 0.0})})
    better, worse = sides(made(scene, "attribute", anyway))
    assert 0 < visible_change(scene, better, worse) < 0.05


def test_a_merged_pair_is_one_look_twice_or_two_that_share_parts(scene):
    """In the exact world the merged look is one person, each part that of one of the two."""
    own = [scene.painter._code(identity) for identity in (Identity(0), Identity(1))]
    ways = Counter()
    for seed in range(12):
        outcome = merge(scene, 1.0, np.random.default_rng(seed))
        script = outcome.script
        if len(script.identities) == 3:
            assert script.weights[:, :, 2].min() == 1.0
            merged = attributes_of(torch.tensor(scene.painter._code(script.identities[2])))
            first, second = (attributes_of(torch.tensor(code)) for code in own)
            assert ((merged == first) | (merged == second)).all()
        else:
            assert (script.weights.max(-1) == 0.5).all()
            assert len(script.identities[2].parts) >= 2
        ways[len(script.identities)] += 1
    assert set(ways) == {3, 4}


def test_the_visible_change_is_a_share_of_one_person(scene):
    black, white = torch.zeros_like(scene.clip), torch.full_like(scene.clip, 255)
    half = black.clone()
    half[: scene.num_frames // 2] = 255
    covered = (scene.regions.sum((2, 3)) / scene.regions.sum((2, 3)).amax(0)).mean(0).max()
    assert visible_change(scene, black, white) == pytest.approx(float(covered), rel=1e-5)
    assert 0.3 < visible_change(scene, black, half) / visible_change(scene, black, white) < 0.7
    assert visible_change(scene, black, black) == 0


class Standing:
    """People two columns wide, at columns 0 and 6 in frames 0 to 4 and at those of `after` in frames 5 to 8; paints nothing new."""

    def __init__(self, after: tuple[int, int]):
        columns = torch.tensor([(0, 6)] * 5 + [after] * 4)[..., None]
        inside = (torch.arange(8) >= columns) & (torch.arange(8) < columns + 2)
        self._regions = inside.float()[:, :, None].expand(-1, -1, 4, -1)

    def regions(self):
        return self._regions

    def paint(self, script):
        return torch.ones(9, 3, 4, 8, dtype=torch.uint8)

    def reblend(self, script):
        return torch.zeros(9, 3, 4, 8, dtype=torch.uint8)


@pytest.mark.parametrize(("after", "possible"), [((0, 6), True), ((1, 7), True), ((6, 0), False), ((4, 2), True)])
def test_people_trade_places_only_where_somebody_jumps(after, possible):
    scene = Scene(torch.zeros(9, 3, 4, 8, dtype=torch.uint8), Standing(after), [torch.zeros(3, 4, 4)] * 2)
    draws = {}
    for seed in range(12):  # the exchange is before frame 4, where everybody stands still, or from frame 5 on
        with suppress(NotPossible):
            weights = swap_late(scene, 1.0, np.random.default_rng(seed)).script.weights
            draws[seed] = "end" if weights[-1, 0, 1] else "start"
    assert set(draws.values()) == ({"start", "end"} if possible else {"start"})
    assert (len(draws) == 12) == possible

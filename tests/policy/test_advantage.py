import math

import pytest
import torch

from idgrpo.policy import CONTROLS
from idgrpo.policy.advantage import Drift, combine_rewards, group_advantages, load_control, win_rates, without

NAN = math.nan


def test_closed_form_of_one_group():
    got = group_advantages(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), eps=0.0)
    std = math.sqrt(1.25)  # population std
    assert got.values[0].tolist() == pytest.approx([-1.5 / std, -0.5 / std, 0.5 / std, 1.5 / std])
    assert got.kept.all()


def test_zero_variance_group_is_dropped_and_others_are_not():
    got = group_advantages(torch.tensor([[0.3, 0.3, 0.3], [0.0, 1.0, 2.0]]))
    assert got.zero_variance.tolist() == [True, False]
    assert got.values[0].tolist() == [0, 0, 0] and not got.kept[0].any()
    assert got.kept[1].all()


def test_rounding_is_not_variance():
    got = group_advantages(torch.tensor([[1000.0, 1000.0 + 1e-4, 1000.0]], dtype=torch.float64))
    assert got.zero_variance.tolist() == [True]


def test_group_below_two_valid_rewards_is_dropped():
    got = group_advantages(torch.tensor([[NAN, 5.0, NAN], [NAN, 1.0, 3.0], [NAN, NAN, NAN]]))
    assert got.too_small.tolist() == [True, False, True]
    assert got.kept.tolist() == [[False] * 3, [False, True, True], [False] * 3]
    assert got.values[1].tolist() == pytest.approx([0.0, -1.0, 1.0], abs=1e-5)


def test_very_unequal_group_is_clamped_and_counted():
    rewards = torch.zeros(1, 64)
    rewards[0, 0] = 1000.0
    got = group_advantages(rewards, clamp=5.0)
    assert got.values[0, 0] == 5.0
    assert got.clamped.sum() == 1
    assert got.values[0, 1].item() == pytest.approx(-1 / math.sqrt(63), rel=1e-4)


def test_floor_keeps_small_spread_small():
    rewards = torch.tensor([[0.0, 2e-4]])
    assert group_advantages(rewards, eps=0.0).values[0].tolist() == pytest.approx([-1, 1])
    assert group_advantages(rewards, std_floor=1e-2, eps=0.0).values[0].tolist() == pytest.approx([-0.01, 0.01])


def test_batch_scale_divides_all_groups_by_one_std():
    got = group_advantages(torch.tensor([[0.0, 2.0], [0.0, 4.0]]), scale="batch", eps=0.0)
    std = math.sqrt((1 + 1 + 4 + 4) / 4)
    assert got.values.flatten().tolist() == pytest.approx([-1 / std, 1 / std, -2 / std, 2 / std])


def test_advantages_ignore_shift_and_scale_of_the_reward():
    rewards = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = group_advantages(rewards, eps=0.0).values
    b = group_advantages(3 * rewards - 7, eps=0.0).values
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_win_rates_closed_form_and_bounds():
    rewards = torch.tensor([[0.0, math.log(3.0), NAN]])
    assert win_rates(rewards)[0, :2].tolist() == pytest.approx([0.25, 0.75])
    assert win_rates(rewards)[0, 2].isnan()
    assert win_rates(torch.tensor([[0.0, 1e6, 1.0]])).max() <= 1


def test_combined_rewards_weigh_after_normalising_inside_the_group():
    rewards = {"a": torch.tensor([[0.0, 1000.0]]), "b": torch.tensor([[1.0, 0.0]])}
    assert combine_rewards(rewards, {"a": 0.001})[0].tolist() == pytest.approx([1.0, 1.0])
    normalised = combine_rewards(rewards, {"b": 2.0}, "group")
    assert normalised[0].tolist() == pytest.approx([-1 + 2, 1 - 2])


def test_sample_without_one_of_its_rewards_is_failed():
    rewards = {"a": torch.tensor([[0.0, 1.0]]), "b": torch.tensor([[NAN, 1.0]])}
    for normalise in ("none", "group"):
        assert combine_rewards(rewards, {}, normalise)[0].isnan().tolist() == [True, False]


NAN = math.nan


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_measures_a_clip(name):
    clip = torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grey = torch.full_like(clip, 128)
    assert load_control(name)(clip) > load_control(name)(grey) == 0


def test_what_a_control_explains_is_taken_out_and_the_rest_stays():
    generator = torch.Generator().manual_seed(0)
    skill, sharpness = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64)
    both = group_advantages(skill + 0.8 * sharpness, eps=0.0)
    left = without(both, [5 + 0.1 * sharpness])
    centred = sharpness - sharpness.mean(1, keepdim=True)
    standardised = centred / centred.square().mean(1, keepdim=True).sqrt()
    assert float((left.values * standardised).sum()) == pytest.approx(0, abs=1e-4)
    assert float((both.values * standardised).sum()) > 10
    correlation = torch.corrcoef(torch.stack([left.values.flatten().double(), skill.flatten()]))[0, 1]
    assert correlation > 0.85
    assert 0.2 < left.explained_share < 0.6 and both.explained_share == 0
    assert left.values.sum(1).abs().max() < 1e-5


def test_a_control_neither_revives_dropped_samples_nor_divides_by_nothing():
    rewards = torch.tensor([[1.0, 2.0, NAN, 0.0], [3.0, 3.0, 3.0, 3.0]])
    dropped = group_advantages(rewards)
    flat = without(dropped, [torch.full((2, 4), 0.3)])
    torch.testing.assert_close(flat.values, dropped.values)
    other = without(dropped, [torch.tensor([[0.0, 1.0, NAN, 2.0], [0.0, 1.0, 2.0, 3.0]])])
    assert other.values[~dropped.kept].eq(0).all() and other.values.isfinite().all()


def test_a_pull_turns_the_advantages_against_a_control_by_its_size():
    generator = torch.Generator().manual_seed(0)
    skill, sharpness = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64)
    advantages = group_advantages(skill, eps=0.0)
    standardised = (sharpness - sharpness.mean(1, keepdim=True)) / sharpness.std(1, keepdim=True, unbiased=False)
    still, down, up = (without(advantages, [sharpness], [pull]).values.double() for pull in (0.0, 0.3, -0.1))
    torch.testing.assert_close(still - down, 0.3 * standardised, atol=1e-6, rtol=0)
    torch.testing.assert_close(up - still, 0.1 * standardised, atol=1e-6, rtol=0)


def test_drift_is_smoothed_and_failed_measures_leave_it():
    drift = Drift(["sharpness", "saturation"])
    for _ in range(2):
        drift.update({"sharpness": torch.tensor([0.1, 0.3, NAN]), "saturation": torch.tensor([NAN, -math.inf])})
    assert drift.values["sharpness"] == pytest.approx(0.2 * (1 - Drift.DECAY**2))
    assert drift.values["saturation"] == 0

"""Taking out of the advantages what the reward must not be earned by."""

import math

import pytest
import torch

from idgrpo.policy import CONTROLS
from idgrpo.policy.advantage import Drift, group_advantages, load_control, without

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

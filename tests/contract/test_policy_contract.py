"""What every policy loss and step law must keep, whatever its formula: parametrised over the registries."""

import pytest
import torch

from idgrpo.flow import LAWS
from idgrpo.policy import FORWARD_LOSSES, LOSSES
from idgrpo.policy.config import RolloutConfig
from idgrpo.policy.loss import LossInputs, load_loss
from idgrpo.policy.schedule import Schedule

PAIRS = 16
OF_RATIOS = [
    name for name in LOSSES if name not in FORWARD_LOSSES
]  # the others are squared errors: tests/policy/test_loss.py


def inputs(log_ratio: float = 0.0, shift_kl: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, LossInputs]:
    source = torch.Generator().manual_seed(seed)
    old = torch.randn(PAIRS, generator=source)
    new = (old + log_ratio).requires_grad_()
    advantage = torch.randn(PAIRS, generator=source)
    std = torch.rand(PAIRS, generator=source) + 0.1
    return new, LossInputs(new, old, advantage, torch.full((PAIRS,), shift_kl), std, 1e-3, 1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_and_dtypes(name):
    _, given = inputs()
    terms = load_loss(name)(given)
    for value in (terms.loss, terms.ratio, terms.clipped_high, terms.clipped_low):
        assert value.shape == (PAIRS,)
    assert terms.loss.dtype == terms.ratio.dtype == torch.float32
    assert terms.clipped_high.dtype == terms.clipped_low.dtype == torch.bool


@pytest.mark.parametrize("name", OF_RATIOS)
def test_on_policy_the_loss_is_minus_the_advantage_and_nothing_is_cut(name):
    _, given = inputs()
    terms = load_loss(name)(given)
    torch.testing.assert_close(terms.loss, -given.advantage)
    assert torch.equal(terms.ratio, torch.ones(PAIRS))
    assert not terms.clipped_high.any() and not terms.clipped_low.any()


@pytest.mark.parametrize("name", LOSSES)
def test_descent_raises_what_was_better_than_its_group(name):
    leaf, given = inputs()
    load_loss(name)(given).loss.sum().backward()
    assert torch.equal(leaf.grad.sign(), -given.advantage.sign())


@pytest.mark.parametrize("name", LOSSES)
def test_batch_equals_single(name):
    _, given = inputs(log_ratio=0.002, shift_kl=0.002)
    whole = load_loss(name)(given).loss
    for index in range(PAIRS):
        one = slice(index, index + 1)
        alone = LossInputs(
            given.log_prob[one],
            given.log_prob_old[one],
            given.advantage[one],
            given.shift_kl[one],
            given.std[one],
            given.clip,
            given.kl_limit,
        )
        assert torch.equal(load_loss(name)(alone).loss, whole[one])


@pytest.mark.parametrize("name", OF_RATIOS)
def test_far_off_policy_good_pairs_stop_pulling(name):
    leaf, given = inputs(log_ratio=1.0, shift_kl=0.5)
    terms = load_loss(name)(given)
    terms.loss.sum().backward()
    good = given.advantage > 0
    assert leaf.grad[good].abs().max() == 0 and terms.clipped_high[good].all()
    assert not terms.clipped_low.any()


@pytest.mark.parametrize("name", LAWS)
def test_every_step_law_is_taken_by_training(name):
    schedule = Schedule.from_config(RolloutConfig(law=name))
    x = torch.zeros(1, 1)
    mean, std = schedule.step(x, torch.ones(1, 1), schedule.sigmas[1:2], schedule.sigmas[2:3])
    assert bool(mean.isfinite().all()) and float(std) > 0


def test_a_new_step_law_is_a_function_and_a_line(monkeypatch):
    monkeypatch.setitem(LAWS.house, "steady", "idgrpo.flow.laws:dance_std")
    assert RolloutConfig(law="steady").law == "steady"

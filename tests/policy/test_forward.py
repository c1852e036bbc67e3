"""Forward-process credit: the density is the velocity's error, its gradient is the hand-written one, and it trains."""

import pytest
import torch
from fake_base import FakeBase, conditions_of, rows_of
from pydantic import ValidationError
from test_trainer import make_trainer

from idgrpo.policy.alarms import alarms
from idgrpo.policy.config import KLConfig, PolicyConfig, PolicyLossConfig, RolloutConfig
from idgrpo.policy.forward import forward_step, noised_again
from idgrpo.policy.loss import load_loss
from idgrpo.policy.replay import Replay, ReplayFigures, pair_batches
from idgrpo.policy.rollout import Draws, roll_out
from idgrpo.policy.schedule import Schedule

SCHEDULE = Schedule.from_config(RolloutConfig(num_steps=6))
LEVEL = 0.6


def finished(base):
    """Roll out deterministically and noise again to one level."""
    draws, guidance = Draws(0, 0, "different"), base.entry.guidance
    settings = {"schedule": SCHEDULE, "guidance": guidance, "draws": draws}
    trajectory = roll_out(base, rows_of(2, 2), conditions_of(base, 2), window=(), **settings)
    return noised_again(base, trajectory, {3: LEVEL}, guidance=guidance, draws=draws)


@pytest.mark.parametrize("slots", [False, True])
def test_the_density_is_the_error_of_the_velocity(slots):
    base = FakeBase(slots)
    trajectory = finished(base)
    (pair,) = trajectory.stored
    noise = (pair.x - (1 - LEVEL) * trajectory.latents) / LEVEL
    sigma = torch.full((4,), LEVEL)
    error = base.velocity(pair.x, sigma, trajectory.batch, None) - (noise - trajectory.latents)
    video = error[:, :, trajectory.batch.num_slots :]  # reference slots do not count
    expected = -video.square().flatten(1).mean(1) / 2 - torch.log(torch.tensor(LEVEL * (2 * torch.pi) ** 0.5))
    torch.testing.assert_close(pair.log_prob, expected, rtol=1e-4, atol=1e-5)


def test_members_of_a_group_share_the_noise_and_groups_do_not():
    trajectory = finished(FakeBase())
    noise = (trajectory.stored[0].x - (1 - LEVEL) * trajectory.latents) / LEVEL
    torch.testing.assert_close(noise[0], noise[1], rtol=1e-4, atol=1e-4)
    assert (noise[0] - noise[2]).abs().max() > 0.5


def test_the_gradient_is_the_advantage_weighted_matching_one():
    base = FakeBase()
    trajectory, advantages = finished(base), torch.tensor([1.5, -0.5, 0.7, -2.0])
    (pair,) = trajectory.stored
    weights = {3: 1.0}
    (gather,) = pair_batches(
        trajectory, advantages, advantages != 0, micro_batch=8, step_weights=weights, kl_steps="all"
    )
    replay = Replay(
        base, forward_step, base.entry.guidance, PolicyLossConfig(), KLConfig(weight=0), load_loss("clip"), lambda: None
    )
    replay.loss_of(gather(), ReplayFigures()).backward()
    got = {name: p.grad.clone() for name, p in base.transformer.named_parameters()}

    base.transformer.zero_grad()
    noise = (pair.x - (1 - LEVEL) * trajectory.latents) / LEVEL
    velocity = base.velocity(pair.x, torch.full((4,), LEVEL), trajectory.batch, None)
    matching = (velocity - (noise - trajectory.latents)).square().flatten(1).mean(1) / 2
    (advantages * matching).sum().backward()
    for name, parameter in base.transformer.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_updates_raise_the_reward(tmp_path):
    trainer = make_trainer(tmp_path, kl={"weight": 0.0}, num_updates=40, loss={"credit": "forward"})
    rewards = [trainer.update()["reward_mean"] for _ in range(40)]
    assert trainer.checked  # the replay reproduced the stored pairs before the first update
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.01


def test_one_start_for_a_whole_group_is_refused():
    with pytest.raises(ValidationError, match="members of a group would be equal"):
        PolicyConfig.model_validate({"rollout": {"noise": "shared"}, "loss": {"credit": "forward"}})


NFT = {"credit": "forward", "name": "nft"}


def test_a_slow_average_draws_the_clips_of_nft(tmp_path):
    rollout = {"num_steps": 6, "window": {"size": 2, "last": 5}, "decay": 0.75}
    trainer = make_trainer(tmp_path, kl={"weight": 0.0}, num_updates=40, loss=NFT, rollout=rollout)
    drawn_by = []
    data = trainer.source.data
    trainer.source.data = lambda *given: drawn_by.append(float(trainer.weights["gain"].detach())) or data(*given)
    seen = []
    for _ in range(3):
        figures = trainer.update()
        seen.append(float(trainer.weights["gain"].detach()))
    old = float(trainer.start["gain"])
    for place in range(3):
        assert drawn_by[place] == pytest.approx(old, abs=1e-6)
        old = 0.75 * old + 0.25 * seen[place]
    assert figures["log_ratio_max"] > 1e-6 and figures["rollout_decay"] == 0.75
    assert alarms([figures | {"log_ratio_max": 1.0}]) == []  # off 1 by intent
    assert alarms([{"log_ratio_max": 1.0}])
    rewards = [trainer.update()["reward_mean"] for _ in range(37)]
    assert sum(rewards[-5:]) > sum(rewards[:5])


def test_a_slow_average_needs_a_loss_without_a_clip():
    with pytest.raises(ValidationError, match=r"set loss\.name=nft"):
        PolicyConfig.model_validate({"rollout": {"decay": 0.5}, "loss": {"credit": "forward"}})
    with pytest.raises(ValidationError, match=r"engine\.zero=2"):
        PolicyConfig.model_validate({"rollout": {"decay": 0.5}, "loss": NFT, "engine": {"zero": 3}})

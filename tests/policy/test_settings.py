"""Every choice of a setting makes an update of a real (tiny, random) transformer, and passes the on-policy self-check."""

from pathlib import Path

import pytest
import torch
from rank_worker import Book, redness

from idgrpo.bases.load import load_base
from idgrpo.bases.lora import attach
from idgrpo.errors import IdgrpoError
from idgrpo.policy.alarms import alarms
from idgrpo.policy.config import ATTENTION, PolicyConfig
from idgrpo.policy.recipes import merge, recipe
from idgrpo.policy.schedule import Schedule
from idgrpo.policy.scoring import RewardScorer
from idgrpo.policy.trainer import Trainer
from idgrpo.policy.weights import snapshot, trained_weights
from idgrpo.run.config import load_config
from idgrpo.run.distributed import World
from idgrpo.run.engine import OptimizerSettings, PlainEngine

SMALL = PolicyConfig.model_validate(
    {
        "group": {"num_cases": 2, "size": 3},
        "rollout": {"num_steps": 4, "window": {"size": 2, "last": 3}},
        "loss": {"micro_batch": 5},
        "preview": {"every": 0},
        "kl": {"weight": 0.1},
    }
)
CHOICES = [
    "loss.name=ratio-norm",
    "loss.name=kl-mask",
    "loss.step_weights=equalise",
    "advantage.win_rate=true",
    "advantage.scale=batch",
    "rollout.law=flow",
    "rollout.law=dance",
    "rollout.law=cps",
    "rollout.guidance.mode=both-grad",
    "rollout.guidance.mode=detach-uncond",
    "rollout.solver=second-order",
    "rollout.noise=shared",
    "rollout.window.move=slide",
    "kl.steps=first",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    from tiny_checkpoints import TINY_VAE, write_diffusers_base

    return write_diffusers_base(tmp_path_factory.mktemp("base") / "phantom", "phantom", TINY_VAE)


def trainer_of(checkpoint: Path, config: PolicyConfig, dtype: torch.dtype | None = None) -> Trainer:
    base = load_base(str(checkpoint), dtype=dtype)
    attach(base, rank=4, alpha=4, targets=ATTENTION, seed=0)
    weights = trained_weights(base.transformer)
    engine = PlainEngine(weights, OptimizerSettings(1e-3, (0.9, 0.999), 1e-8, 0.0, 1.0), World())
    scorer = RewardScorer(redness, config.reward)
    return Trainer(base, Book(base, 4), scorer, config, engine, start=snapshot(weights), folder=checkpoint)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_makes_an_update(checkpoint, choice):
    config = load_config(PolicyConfig, None, [choice], base=SMALL)
    assert config != SMALL
    trainer = trainer_of(checkpoint, config)
    figures = trainer.update()
    assert trainer.checked and figures["log_ratio_max"] <= 1e-5
    assert figures["grad_norm"] > 0 and figures["samples_trained"] > 0
    assert any(not value.detach().equal(trainer.start[name]) for name, value in trainer.weights.items())


def test_the_self_check_holds_in_bf16_and_sees_latents_that_were_rounded_to_it(checkpoint):
    trainer = trainer_of(checkpoint, SMALL, torch.bfloat16)
    assert trainer.base.dtype == torch.bfloat16
    trainer.update()
    assert trainer.checked
    trainer = trainer_of(checkpoint, SMALL, torch.bfloat16)
    step = trainer.replay.step
    trainer.replay.step = lambda x, *others: step(x.bfloat16().float(), *others)
    with pytest.raises(IdgrpoError, match="does not reproduce the rollout"):
        trainer.update()


def with_one_ulp_of_noise(trainer: Trainer) -> list[float]:
    """Let every forward of the transformer round its result up or down by one bf16 ulp at random, as other kernels would."""
    forward, source, seen = trainer.base.transformer.forward, torch.Generator().manual_seed(0), []

    def noisy(*given, **named):
        out = forward(*given, **named)
        first = out[0]
        sign = torch.randint(-1, 2, first.shape, generator=source)
        seen.append(float(first.detach().abs().max()))
        return (first + (sign * torch.finfo(torch.bfloat16).eps * first.detach().abs()).to(first.dtype), *out[1:])

    trainer.base.transformer.forward = noisy
    return seen


@pytest.mark.parametrize("passes", [1, 2])
def test_one_ulp_between_rollout_and_replay_enters_no_ratio_of_the_papers_recipe(checkpoint, passes):
    paper = recipe("paper", "tiny-phantom").model_dump()
    small = {"group": {"num_cases": 2, "size": 2}, "loss": {"num_passes": passes}, "preview": {"every": 0}}
    config = PolicyConfig.model_validate(merge(paper, small | {"rollout": {"num_steps": 25}}))
    trainer = trainer_of(checkpoint, config, torch.bfloat16)
    assert trainer.guidance.scale == 4.5 and with_one_ulp_of_noise(trainer) == []
    figures = trainer.update()
    assert trainer.checked and figures["log_ratio_max"] > 2e-4  # the tolerance that such a run did not pass before
    rounded = figures | {"log_ratio_max": 1e-3, "passes": 1.0}  # as a bf16 run may see on any machine
    assert alarms([rounded]) == []
    assert alarms([figures | {"log_ratio_max": 1.0, "passes": 1.0}])
    if passes == 1:
        assert figures["clip_share_high"] == figures["clip_share_low"] == 0  # no pair is clipped for its rounding


def test_the_check_of_a_guided_bf16_run_still_sees_another_schedule(checkpoint):
    paper = recipe("paper", "tiny-phantom").model_dump()
    small = {"group": {"num_cases": 2, "size": 2}, "preview": {"every": 0}}
    config = PolicyConfig.model_validate(merge(paper, small))
    trainer = trainer_of(checkpoint, config, torch.bfloat16)
    trainer.replay.step = Schedule.from_config(config.rollout.model_copy(update={"std_min": 0.2})).step
    with pytest.raises(IdgrpoError, match="does not reproduce the rollout"):
        trainer.update()

"""Every choice of a setting makes an update of a real (tiny, random) transformer, and passes the on-policy self-check."""

from pathlib import Path

import pytest
import torch
from rank_worker import Book, redness

from idgrpo.bases.load import load_base
from idgrpo.bases.lora import attach
from idgrpo.errors import IdgrpoError
from idgrpo.policy.config import ATTENTION, PolicyConfig
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

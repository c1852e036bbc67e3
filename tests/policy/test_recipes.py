import subprocess
import sys

import pytest
from pydantic import ValidationError

from idgrpo.errors import UsageError
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.recipes import BASES, RECIPES, merge, recipe


@pytest.mark.parametrize("base", [*BASES, "/some/folder"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_survives_its_own_json(name, base):
    config = recipe(name, base)
    assert PolicyConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.rollout.window.last < config.rollout.num_steps


def test_paper_recipe_is_the_authors():
    config = recipe("paper", "vace")
    assert (config.rollout.num_steps, config.rollout.window.size) == (25, 24)
    assert config.rollout.guidance.scale == 4.5 and config.rollout.guidance.mode == "both-grad"
    assert config.group.num_cases * config.group.size == 128
    assert (config.size.width, config.size.height, config.size.frames) == (416, 240, 33)
    assert (config.optimizer.lr, config.kl.weight, config.lora.rank, config.ema.decay) == (1e-4, 0.004, 32, 0.9)


def test_tiny_default_is_what_the_embedded_world_was_measured_with():
    config = recipe("default", "tiny-phantom")
    rollout = config.rollout
    assert (rollout.num_steps, rollout.shift, rollout.law) == (8, 3.0, "wan")
    assert (rollout.window.size, rollout.window.first, rollout.window.last) == (2, 0, 7)
    assert rollout.window.move == "scatter"
    assert (config.group.num_cases, config.group.size, config.loss.clip) == (6, 8, 1e-3)
    assert (config.optimizer.lr, config.optimizer.schedule, config.kl.weight, config.lora.rank) == (
        6e-3,
        "cosine",
        0.015,
        16,
    )
    assert rollout.guidance.mode == "none" and rollout.noise == "different"
    assert config.loss.credit == "forward" and config.advantage.controls == ("sharpness", "ripple")
    assert config.advantage.hold == 1.0 and config.num_updates == 120


def test_full_recipe_trains_all_weights_in_smaller_steps():
    for base in ("vace", "tiny-vace"):
        full, adapter = recipe("full", base), recipe("default", base)
        assert (full.train, adapter.train) == ("full", "lora") and full.optimizer.lr < adapter.optimizer.lr / 10
        assert not full.rollout.merged


def test_full_size_trains_guided_unless_the_cheaper_recipe_is_named():
    for base in ("vace", "phantom-14b"):
        guided, plain = recipe("default", base), recipe("unguided", base)
        assert (
            guided.rollout.guidance.mode == "detach-uncond" and guided.rollout.guidance.scale is None
        )  # the base's own
        assert merge(plain.model_dump(), {"rollout": {"guidance": {"mode": "detach-uncond"}}}) == guided.model_dump()
    assert recipe("unguided", "tiny-vace") == recipe("default", "tiny-vace")


def test_steps_of_an_adapter_are_not_swamped_by_adams_epsilon():
    import torch

    def step(eps: float) -> float:
        weight = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.AdamW([weight], lr=1.0, eps=eps, weight_decay=0.0)
        weight.grad = torch.full((1,), 5e-9)  # rms of an adapter's gradients
        optimizer.step()
        return -weight.item()

    assert step(1e-8) < 0.4  # torch's own
    for base in ("vace", "phantom-14b"):
        for name in ("default", "unguided", "full"):
            assert step(recipe(name, base).optimizer.eps) > 0.99


def test_shift_follows_the_base():
    assert recipe("default", "phantom").rollout.shift == 5.0
    assert recipe("default", "vace").rollout.shift == 3.0
    assert recipe("default", f"phantom@{'0' * 40}").rollout.shift == 5.0, "a pinned commit is the same base"


def test_unknown_recipe_names_the_known():
    with pytest.raises(UsageError, match="default, unguided, paper, full"):
        recipe("fast", "vace")


def test_merge_changes_neither_side():
    below, above = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}}
    assert merge(below, above) == {"a": {"b": 5, "c": 2}, "d": 3}
    assert below == {"a": {"b": 1, "c": 2}, "d": 3} and above == {"a": {"b": 5}}


def test_unknown_loss_and_tolerance_above_the_clip_are_refused():
    with pytest.raises(ValidationError, match="known: clip, ratio-norm, kl-mask"):
        PolicyConfig.model_validate({"loss": {"name": "ppo"}})
    with pytest.raises(ValidationError, match="must be below loss.clip"):
        PolicyConfig.model_validate({"loss": {"ratio_tolerance": 0.1}})


def test_settings_import_no_torch():
    code = "import sys, idgrpo.policy.config, idgrpo.policy.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

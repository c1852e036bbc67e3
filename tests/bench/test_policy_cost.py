"""TFLOP per training sample of the full-size 1.3B bases, per recipe: the transformer's counted on the meta device."""

import pytest
import torch
from tests.bench.full_size import TRAIN_SIZE, random_base
from torch.utils.flop_counter import FlopCounterMode

from idgrpo.bases.cost import transformer_flop
from idgrpo.bases.lora import attach
from idgrpo.policy.cost import REPLAY_FORWARDS, sample_cost
from idgrpo.policy.recipes import recipe

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
BRANCHES = {"vace": 2, "phantom": 3}


def counted(name: str) -> tuple[float, float]:
    """Count TFLOP of a forward, and of a backward with recomputed activations, with LoRA 32, two references."""
    base = random_base(name, "meta")
    attach(base, rank=32, alpha=32)
    frames, height, width = base.geometry.latent_size(TRAIN_SIZE)
    config = base.transformer.config

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta", dtype=torch.bfloat16)

    inputs = {
        "hidden_states": empty(1, config.in_channels, frames + 2, height, width),
        "encoder_hidden_states": empty(1, base.entry.text_length, config.text_dim),
    }
    if name == "vace":
        inputs["control_hidden_states"] = empty(1, config.vace_in_channels, frames + 2, height, width)
    timestep = torch.empty(1, device="meta")
    with FlopCounterMode(display=False) as forward:
        velocity = base.transformer(timestep=timestep, return_dict=False, **inputs)[0]
    with FlopCounterMode(display=False) as backward:
        velocity.float().sum().backward()
    arithmetic = transformer_flop(config, base.geometry.num_tokens(TRAIN_SIZE, 2), base.entry.text_length)
    assert forward.get_total_flops() == pytest.approx(arithmetic, rel=0.02)  # LoRA is not in the arithmetic
    return forward.get_total_flops() / 1e12, backward.get_total_flops() / 1e12


@pytest.mark.parametrize("name", BRANCHES)
def test_full_size_cost_per_recipe(name):
    forward, backward = counted(name)
    replay = (forward + backward) / forward
    print(f"\n{name}: forward {forward:.2f} TFLOP, replayed step {replay:.3f} forwards (240x416x33, two references)")
    assert replay == pytest.approx(REPLAY_FORWARDS, rel=0.01)
    totals = {}
    for setting in ("paper", "default", "unguided"):
        cost = sample_cost(recipe(setting, name), forward, BRANCHES[name])
        totals[setting] = cost.total
        parts = f"rollout {cost.rollout:.0f}, replay {cost.replay:.0f}, reference {cost.reference:.0f}"
        print(f"| {name} | {setting} | {cost.total:.0f} TFLOP a sample | {parts} |")
    print(f"{name}: default is {totals['paper'] / totals['default']:.1f}x less compute a sample")
    assert totals["paper"] > 3 * totals["default"] > 4.5 * totals["unguided"]

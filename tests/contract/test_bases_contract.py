"""What every registered law, solver and base must hold."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bases"))

import tiny_checkpoints

from idgrpo.bases.contract import Guidance, VideoSize
from idgrpo.bases.entries import ENTRIES
from idgrpo.bases.load import load_base
from idgrpo.bases.lora import attach
from idgrpo.bases.weights import locate
from idgrpo.flow import LAWS, SOLVERS
from idgrpo.flow.laws import default_eta, stochastic_step
from idgrpo.flow.solver import solver_named

SIZE = VideoSize(32, 32, 9)


@pytest.mark.parametrize("name", [*LAWS.values(), *SOLVERS.values()])
def test_registries_point_to_something(name):
    module, _, attribute = name.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("law", LAWS)
def test_laws_keep_shapes_and_compute_in_float32(law):
    assert default_eta(law) > 0
    x, v = torch.randn(2, 16, 3, 4, 4, dtype=torch.bfloat16), torch.randn(2, 16, 3, 4, 4, dtype=torch.bfloat16)
    sigma, sigma_next = torch.tensor([0.9, 0.5]), torch.tensor([0.8, 0.0])
    mean, std = stochastic_step(law, x, v, sigma, sigma_next, sigma_max=0.95)
    assert mean.shape == x.shape
    assert std.shape == (2, 1, 1, 1, 1)
    assert mean.dtype == std.dtype == torch.float32
    assert float(std[0]) > 0 == float(std[1])


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_compute_in_float32_and_reach_the_end_of_a_straight_line(name):
    x0, noise = torch.randn(2, 4), torch.randn(2, 4)
    x, solver = noise, solver_named(name)
    for s, s_next in ((1.0, 0.7), (0.7, 0.2), (0.2, 0.0)):
        x = solver.step(x, (noise - x0).to(torch.bfloat16).float(), s, s_next)
    assert x.dtype == torch.float32
    assert torch.allclose(x, x0, atol=0.02)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Write random checkpoints in the public formats, one per family and VAE structure."""
    root = tmp_path_factory.mktemp("stand-ins")
    for family in ("vace", "phantom"):
        tiny_checkpoints.write_diffusers_base(root / family, family)
        tiny_checkpoints.write_diffusers_base(root / f"tiny-{family}", family, tiny_checkpoints.TINY_VAE)
    return root


def loaded(name, stand_ins):
    """Load a base: shipped tiny ones as they are, public ones by their stand-in of the same family and structure."""
    entry = ENTRIES[name]
    if entry.architecture == "tiny" and locate(entry.source) is not None:
        return load_base(name)
    return load_base(str(stand_ins / (name if entry.architecture == "tiny" else entry.family)))


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_whole(name):
    entry = ENTRIES[name]
    assert entry.name == name
    assert entry.download
    assert entry.download_size
    assert entry.guidance.mode in ("none", "detach-uncond", "both-grad")
    assert entry.size.frames > 1


@pytest.mark.parametrize("name", ENTRIES)
def test_every_base_keeps_the_contract(name, stand_ins):
    base = loaded(name, stand_ins)
    draws = torch.Generator().manual_seed(0)
    photos = [torch.randint(0, 256, (3, 32, 32), generator=draws, dtype=torch.uint8) for _ in range(2)]
    batch = base.collate([base.encode("a man", photos[:count], SIZE) for count in (2, 1)])
    state = torch.randn(2, *base.latent_shape(SIZE, 2), generator=draws)
    sigma = torch.full((2,), 0.5)
    velocity = base.velocity(state, sigma, batch, None)
    assert velocity.shape == state.shape
    assert velocity.dtype == torch.float32
    assert torch.isfinite(velocity).all()
    assert torch.equal(velocity, base.velocity(state, sigma, batch, None)), "the same numbers again"
    assert base.video_mask(batch).shape == (2, 1, state.shape[2], 1, 1)
    pixels = base.decode(state, batch)
    assert pixels.shape == (2, 9, 3, 32, 32)
    assert pixels.dtype == torch.float32
    assert 0.0 <= float(pixels.min()) <= float(pixels.max()) <= 1.0
    parameters = attach(base, rank=2)
    base.velocity(state, sigma, batch, Guidance(2.0, 1.5)).square().mean().backward()
    gradients = [parameter.grad for parameter in parameters]
    assert any(gradient is not None and bool(gradient.any()) for gradient in gradients)

"""The forward paths on fake tensors of a GPU: a tensor left on the CPU, or a look at a value, stops the code; no GPU is needed."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from idgrpo.bases.contract import Guidance, VideoSize
from idgrpo.bases.load import load_base
from idgrpo.policy.config import RolloutConfig
from idgrpo.policy.forward import noised_again
from idgrpo.policy.rollout import Draws, SampleRow, roll_out
from idgrpo.policy.schedule import Schedule

GPU = torch.device("cuda:0")
SIZE = VideoSize(32, 32, 9)
SCHEDULE = Schedule.from_config(RolloutConfig(num_steps=3, window={"size": 2, "first": 0, "last": 2}))


def moved(module: nn.Module, mode: FakeTensorMode) -> None:
    """Put fake tensors on the GPU in place of a module's weights and buffers."""
    for part in module.modules():
        for own in (part._parameters, part._buffers):
            for name, value in own.items():
                if value is not None:
                    fake = mode.from_tensor(value.detach()).to(GPU)
                    own[name] = nn.Parameter(fake, requires_grad=False) if own is part._parameters else fake


@pytest.fixture(scope="module", params=["tiny-vace", "tiny-phantom"])
def base_on_gpu(request) -> Iterator:
    """Give a base of the embedded world whose weights lie on a GPU that is not there, and conditions of two cases."""
    base = load_base(request.param)
    photos = [torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8) for _ in range(3)]
    conditions = {0: base.encode("one person", photos[:1], SIZE), 1: base.encode("two people", photos[1:], SIZE)}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in (base.transformer, base.vae):
            moved(module, mode)
        base.device = GPU
        yield base, conditions


@pytest.mark.parametrize("guidance", [Guidance(mode="none"), Guidance(3.0), Guidance(3.0, mode="detach-uncond")])
def test_a_rollout_stays_on_the_gpu(base_on_gpu, guidance):
    base, conditions = base_on_gpu
    rows = [SampleRow(0, case, f"case-{case}", 0) for case in (1, 1)]
    trajectory = roll_out(
        base, rows, conditions, schedule=SCHEDULE, window=(0, 1), guidance=guidance, draws=Draws(0, 0, "different")
    )
    for step in trajectory.stored:
        for field in dataclasses.fields(step):
            value = getattr(step, field.name)
            assert not isinstance(value, torch.Tensor) or value.device == GPU, field.name
    again = noised_again(base, trajectory, {0: 0.9}, guidance=guidance, draws=Draws(0, 0, "different"))
    assert again.stored[0].log_prob.device == GPU
    pixels = base.decode(trajectory.latents, trajectory.batch)
    assert isinstance(pixels, FakeTensor) and pixels.device == GPU and pixels.shape == (2, 9, 3, 32, 32)
    assert base.encode_clips(pixels, trajectory.batch).device == GPU


def test_cases_with_different_numbers_of_people_share_a_batch_on_the_gpu(base_on_gpu):
    base, conditions = base_on_gpu
    batch = base.collate([conditions[0], conditions[1]])
    shape = (2, *base.latent_shape(SIZE, 2)) if base.slots_in_state else (2, *base.latent_shape(SIZE, 0))
    velocity = base.velocity(torch.zeros(shape, device=GPU), torch.full((2,), 0.5, device=GPU), batch, None)
    assert velocity.device == GPU and velocity.shape == shape


def test_a_tensor_left_on_the_cpu_is_found(base_on_gpu):
    """The test's own eyes: without `.to(device)` of the state the forward is refused."""
    base, conditions = base_on_gpu
    batch = base.collate([conditions[1]])
    state = torch.zeros((1, *base.latent_shape(SIZE, 2)), device="cpu")
    with pytest.raises(RuntimeError, match="device"):
        base.velocity(state, torch.full((1,), 0.5, device=GPU), batch, None)

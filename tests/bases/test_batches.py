"""Each sample of a mixed batch equals the same case alone; rollout equals replay."""

import pytest
import torch
from tiny_checkpoints import SIZE, draw

from idgrpo.bases.contract import Guidance
from idgrpo.errors import UsageError

PROMPTS = ["a man", "a woman with red hair", "two people walk on the beach", "a man and a woman meet"]


def mixed(base, photos, counts=(1, 3, 2, 4)):
    conditions = [base.encode(prompt, photos[:count], SIZE) for prompt, count in zip(PROMPTS, counts, strict=True)]
    batch = base.collate(conditions)
    state = draw((4, *base.latent_shape(SIZE, batch.num_slots)))
    return conditions, batch, state * base.video_mask(batch) + draw(state.shape, 1) * 0.3


@pytest.mark.parametrize("guidance", [Guidance(5.0, 3.0), Guidance(5.0, 3.0, "detach-uncond"), Guidance(mode="none")])
def test_each_sample_of_a_mixed_batch_equals_the_case_alone(base, photos, guidance):
    conditions, batch, state = mixed(base, photos)
    sigma = torch.tensor([0.9, 0.7, 0.5, 0.2])
    together = base.velocity(state, sigma, batch, guidance)
    pixels = base.decode(state, batch)
    for index, condition in enumerate(conditions):
        alone = base.collate([condition])
        padding = batch.num_slots - alone.num_slots
        part = state[index : index + 1, :, padding:]
        single = base.velocity(part, sigma[index : index + 1], alone, guidance)
        assert float((single - together[index : index + 1, :, padding:]).abs().max()) < 1e-5
        assert not together[index, :, :padding].any(), "padding stays where it is"
        assert float((base.decode(part, alone) - pixels[index : index + 1]).abs().max()) < 1e-5


def test_a_selection_keeps_the_shape_of_its_states(base, photos):
    _, batch, state = mixed(base, photos)
    sigma = torch.full((4,), 0.5)
    whole = base.velocity(state, sigma, batch, None)
    picked = [2, 0, 2]
    part = base.velocity(state[picked], sigma[picked], batch.select(picked), None)
    assert float((part - whole[picked]).abs().max()) < 1e-5
    assert torch.equal(base.video_mask(batch.select(picked)), base.video_mask(batch)[picked])


@pytest.mark.parametrize("mode", ["none", "both-grad", "detach-uncond"])
def test_rollout_and_replay_compute_the_same_bits(base, photos, mode):
    _, batch, state = mixed(base, photos)
    sigma = torch.full((4,), 0.5)
    guidance = Guidance(5.0, 3.0, mode)
    with torch.no_grad():
        rollout = base.velocity(state, sigma, batch, guidance)
    base.transformer.requires_grad_(True)
    replay = base.velocity(state, sigma, batch, guidance)
    assert replay.requires_grad
    assert torch.equal(rollout, replay.detach())
    base.transformer.enable_gradient_checkpointing()
    assert torch.equal(rollout, base.velocity(state, sigma, batch, guidance).detach())


def test_mask_marks_the_last_frames(base, photos):
    _, batch, _ = mixed(base, photos)
    mask = base.video_mask(batch)
    frames = base.geometry.latent_frames(SIZE.frames)
    assert mask.shape == (4, 1, batch.num_slots + frames, 1, 1)
    assert float(mask[0].sum()) == frames
    assert bool((mask[:, :, -frames:] == 1).all())


def test_two_sizes_in_one_batch_are_refused(base, photos):
    a = base.encode("a man", photos[:1], SIZE)
    b = base.encode("a man", photos[:1], SIZE._replace(frames=5))
    with pytest.raises(UsageError, match="one size"):
        base.collate([a, b])


def test_states_of_another_shape_are_refused(base, photos):
    _, batch, state = mixed(base, photos)
    with pytest.raises(ValueError, match="batch needs"):
        base.velocity(state[:, :, 1:], torch.full((4,), 0.5), batch, None)
    with pytest.raises(ValueError, match="batch needs"):
        base.velocity(state, torch.tensor(0.5), batch, None)

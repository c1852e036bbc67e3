import pytest
import torch
from tiny_checkpoints import SIZE

from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.generate import renoise
from idgrpo.errors import UsageError

STEPS = SamplerConfig(num_steps=4)


@pytest.fixture
def clip():
    draws = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (SIZE.frames, 3, SIZE.height, SIZE.width), generator=draws, dtype=torch.uint8)


def test_clean_states_are_what_decoding_undoes(base, photos, clip):
    """Two samples with different numbers of references: the clip stays last, references fill the slots before it."""
    batch = base.collate([base.encode("two walk", photos[:count], SIZE) for count in (1, 2)])
    pixels = clip[None].float().expand(2, -1, -1, -1, -1) / 255
    state = base.encode_clips(pixels, batch)
    frames = base.geometry.latent_frames(SIZE.frames)
    assert state.shape == (2, *base.latent_shape(SIZE, 2 if base.slots_in_state else 0))
    assert torch.equal(state[0, :, -frames:], state[1, :, -frames:])
    if base.slots_in_state:
        assert not state[0, :, 0].any() and state[0, :, 1].any()
        assert torch.allclose(state[1, :, 0], state[0, :, 1], atol=1e-5)  # both begin with the same photo
    alone = base.collate([base.encode("two walk", photos[:1], SIZE)])
    again = base.decode(base.encode_clips(pixels[:1], alone), alone)
    assert again.shape == pixels[:1].shape
    direct = base.vae.decode(base.vae.encode(_padded(base, pixels[:1])).latent_dist.mode()[:, :, :frames])[0]
    assert torch.allclose(again, (direct / 2 + 0.5).clamp(0, 1).permute(0, 2, 1, 3, 4), atol=1e-4)


def _padded(base, pixels):
    surplus = base.geometry.encodable_frames(SIZE.frames) - SIZE.frames
    longer = torch.cat([pixels, pixels[:, -1:].repeat(1, surplus, 1, 1, 1)], 1)
    return longer.permute(0, 2, 1, 3, 4) * 2 - 1


def test_a_low_level_keeps_the_clip_and_a_high_one_makes_another(base, photos, clip):
    batch = base.collate([base.encode("two walk", photos[:2], SIZE)])
    kept = (base.decode(base.encode_clips(clip[None].float() / 255, batch), batch)[0] * 255).round()
    gaps = []
    for level in (1e-4, 0.5, 0.95):
        again = renoise(base, clip, photos[:2], "two walk", level, 5, sampler=STEPS)
        assert again.shape == clip.shape and again.dtype == torch.uint8
        gaps.append(float((again.float() - kept).abs().mean()))
    assert gaps[0] < 1 and gaps[0] < gaps[1] < gaps[2]


def test_the_seed_decides_the_noise_and_references_count(phantom, photos, clip):
    first, again, other = (renoise(phantom, clip, photos[:2], "two", 0.8, seed, sampler=STEPS) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, renoise(phantom, clip, [photos[0], photos[2]], "two", 0.8, 1, sampler=STEPS))


def test_a_clip_of_another_size_is_refused(phantom, photos, clip):
    with pytest.raises(UsageError, match="frames 8"):
        renoise(phantom, clip[:8], photos[:2], "two", 0.8, 0, sampler=STEPS)

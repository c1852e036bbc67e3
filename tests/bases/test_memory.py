"""What fits a device: the batch that sampling takes, tiles for the decoder, precision of the VAE."""

import dataclasses

import pytest
import torch
from tiny_checkpoints import SIZE, draw

from idgrpo.bases.architectures import ARCHITECTURES, WAN_VAE
from idgrpo.bases.config import SampleConfig, SamplerConfig
from idgrpo.bases.contract import VideoSize
from idgrpo.bases.cost import (
    DEFAULT_BATCH_SIZE,
    GIB,
    MAX_BATCH_SIZE,
    activation_bytes,
    batch_that_fits,
    decoder_bytes,
    must_tile,
)
from idgrpo.bases.entries import ENTRIES
from idgrpo.bases.generate import generate, jobs_of
from idgrpo.bases.geometry import Geometry
from idgrpo.bases.inventory import cost_lines, cost_of_entry
from idgrpo.bases.load import load_base
from idgrpo.bases.sampling import load_for_sampling, sampler_record
from idgrpo.records.models import Case, Reference

PUBLISHED, TRAINING = VideoSize(832, 480, 81), VideoSize(416, 240, 33)
SIZED = {"width": SIZE.width, "height": SIZE.height, "frames": SIZE.frames}
CONFIG = ARCHITECTURES["vace-1.3b"]
GEOMETRY = Geometry.of(WAN_VAE, CONFIG)


def batch(free_gib, size, branches=2):
    free = None if free_gib is None else int(free_gib * GIB)
    settings = {"num_references": 2, "num_branches": branches, "bytes_per_value": 2}
    return batch_that_fits(free, CONFIG, GEOMETRY, size, **settings)


def test_the_batch_follows_the_free_memory():
    assert batch(None, PUBLISHED) == DEFAULT_BATCH_SIZE == 4
    assert [batch(gib, PUBLISHED) for gib in (1, 10, 20, 40, 1000)] == [1, 1, 2, 4, MAX_BATCH_SIZE]
    assert batch(19, TRAINING) == MAX_BATCH_SIZE
    assert batch(20, PUBLISHED, branches=1) > batch(20, PUBLISHED)


@pytest.mark.parametrize("gib", [10, 24, 80])
@pytest.mark.parametrize("size", [PUBLISHED, TRAINING])
def test_the_batch_is_the_largest_that_fits(gib, size):
    def needs(count):
        return count * activation_bytes(CONFIG, GEOMETRY.num_tokens(size, 2), 2, 2)

    found = batch(gib, size)
    assert needs(found) <= gib * GIB
    assert found == MAX_BATCH_SIZE or needs(found + 1) > 0.9 * gib * GIB


def test_tiles_only_where_a_frame_has_no_room():
    assert not must_tile(None, GEOMETRY, PUBLISHED, 4)
    whole = decoder_bytes(GEOMETRY, PUBLISHED, 4)
    assert must_tile(whole, GEOMETRY, PUBLISHED, 4) and not must_tile(2 * whole, GEOMETRY, PUBLISHED, 4)
    assert not must_tile(whole, GEOMETRY, PUBLISHED, 2), "half the bytes in bfloat16"


def test_a_plan_takes_the_batch_that_fits_and_a_user_s_own():
    entry = ENTRIES["vace"]
    planned = {gib: cost_of_entry(entry, SamplerConfig(), num_references=2, memory_gib=gib) for gib in (24.0, 80.0)}
    assert planned[24.0].batch_size < planned[80.0].batch_size
    assert all(cost.memory_gib <= gib for gib, cost in planned.items())
    assert cost_of_entry(entry, SamplerConfig(batch_size=3), num_references=2, memory_gib=24.0).batch_size == 3
    lines = cost_lines(entry, SamplerConfig(), cost_of_entry(entry, SamplerConfig(), num_references=2), 2, 24.0)
    assert "for batches of 2 " in lines[1] and lines[-1].endswith("fits")
    half = cost_of_entry(entry, SamplerConfig(), num_references=2, memory_gib=24.0, vae_dtype="bfloat16")
    assert half.memory_gib < planned[24.0].memory_gib


@pytest.fixture
def cases():
    return [Case(id=str(k), prompt="a man", references=[Reference(person="ann", images=["a.png"])]) for k in range(5)]


@pytest.mark.parametrize(("own", "free", "expected"), [(None, None, 4), (None, 10, 1), (3, 10, 3)])
def test_sampling_takes_it(phantom, cases, photos, monkeypatch, own, free, expected):
    sizes, velocity = [], phantom.velocity
    monkeypatch.setattr(phantom, "velocity", lambda x, *rest: sizes.append(len(x)) or velocity(x, *rest))
    monkeypatch.setattr("idgrpo.bases.generate.free_device_bytes", lambda device: free)
    sampler = SamplerConfig(num_steps=1, batch_size=own, **SIZED)
    assert len(list(generate(phantom, jobs_of(cases), sampler=sampler, read=lambda case: photos[:1]))) == 5
    assert sizes[0] == expected


def test_a_frame_without_room_is_decoded_in_tiles_and_the_record_says_so(checkpoints, photos, monkeypatch):
    base = load_base(str(checkpoints / "phantom"))
    conditions = base.collate([base.encode("a man", photos[:1], SIZE)])
    latents = draw((1, *base.latent_shape(SIZE, 1)))
    used, decode = [], base.vae.decode
    monkeypatch.setattr(base.vae, "decode", lambda *a, **k: used.append(base.vae.use_tiling) or decode(*a, **k))
    base.decode(latents, conditions)
    assert "vae_tiling" not in sampler_record(base, SamplerConfig(**SIZED))
    monkeypatch.setattr("idgrpo.bases.wan.free_device_bytes", lambda device: 1000)
    base.decode(latents, conditions)
    assert used == [False, True] and not base.vae.use_tiling
    assert sampler_record(base, SamplerConfig(**SIZED))["vae_tiling"] is True
    never = load_base(str(checkpoints / "phantom"), vae_tiling=False)
    never.decode(latents, conditions)
    assert not never.has_tiled


def test_settings_of_sample_reach_the_base(checkpoints, photos):
    plain = load_for_sampling(SampleConfig(base=str(checkpoints / "phantom")))
    half = load_for_sampling(
        SampleConfig(base=str(checkpoints / "phantom"), vae_dtype="bfloat16", encoder_device="meta")
    )
    assert half.text_encoder.device == torch.device("meta") and plain.text_encoder.device == plain.device
    latents, pixels = draw((1, *plain.latent_shape(SIZE, 1))), []
    for base in (plain, half):
        assert base.transformer.blocks[0].attn1.to_q.weight.dtype == torch.float32
        base.text_encoder = plain.text_encoder
        pixels.append(base.decode(latents, base.collate([base.encode("a man", photos[:1], SIZE)])))
    assert pixels[1].dtype == torch.float32 and not torch.equal(*pixels)
    assert float((pixels[0] - pixels[1]).abs().mean()) < 0.05
    assert sampler_record(half, SamplerConfig(**SIZED))["vae_dtype"] == "bfloat16"
    resolved = SampleConfig(vae_dtype="bfloat16").resolved(dataclasses.replace(plain.entry))
    assert resolved["vae_dtype"] == "bfloat16", "it decides the pixels"

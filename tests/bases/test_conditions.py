import dataclasses
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import SIZE

from idgrpo.bases.conditions import ConditionsCache, encode_cases
from idgrpo.bases.config import SampleConfig, SamplerConfig
from idgrpo.bases.generate import generate, jobs_of
from idgrpo.bases.load import load_base
from idgrpo.bases.lora import attach, lora_layers, save_adapter
from idgrpo.bases.sampling import load_for_sampling, sample_to_folder
from idgrpo.errors import MachineError, UsageError
from idgrpo.records.models import Case, Reference

PROMPT = "a man and a woman"


def counted(base, monkeypatch):
    calls = []
    encode = base.encode
    monkeypatch.setattr(base, "encode", lambda *arguments: calls.append(1) or encode(*arguments))
    return calls


def same(a, b):
    names = ("text", "negative", "references", "background")
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in pairs)


def test_the_same_case_is_encoded_once(base, photos, monkeypatch):
    calls, cache = counted(base, monkeypatch), ConditionsCache()
    first = cache.encode(base, PROMPT, photos[:2], SIZE)
    assert cache.encode(base, PROMPT, [photo.clone() for photo in photos[:2]], SIZE) is first
    assert len(calls) == 1


def test_anything_that_matters_makes_another_key(base, photos):
    cache = ConditionsCache()
    keys = {
        cache.key(base, PROMPT, photos[:2], SIZE),
        cache.key(base, PROMPT + " ", photos[:2], SIZE),
        cache.key(base, PROMPT, photos[1::-1], SIZE),
        cache.key(base, PROMPT, photos[:1], SIZE),
        cache.key(base, PROMPT, photos[:2], SIZE._replace(frames=5)),
        cache.key(base, PROMPT, [photos[0], 255 - photos[1]], SIZE),
    }
    assert len(keys) == 6


def test_disk_gives_the_same_bits_to_the_next_process(base, photos, monkeypatch, tmp_path):
    first = ConditionsCache(tmp_path).encode(base, PROMPT, photos[:2], SIZE)
    calls = counted(base, monkeypatch)
    again = ConditionsCache(tmp_path).encode(base, PROMPT, photos[:2], SIZE)
    assert same(first, again)
    assert not calls


def test_a_damaged_entry_is_made_again(phantom, photos, monkeypatch, tmp_path):
    first = ConditionsCache(tmp_path).encode(phantom, PROMPT, photos[:1], SIZE)
    calls = counted(phantom, monkeypatch)
    for count, path in enumerate(sorted(tmp_path.glob("*.safetensors")), start=1):
        path.write_bytes(path.read_bytes()[:100])
        assert same(first, ConditionsCache(tmp_path).encode(phantom, PROMPT, photos[:1], SIZE))
        assert len(calls) == count
    assert same(first, ConditionsCache(tmp_path).get(first.key, SIZE)), "and stored again"
    path = tmp_path / f"{first.key}.safetensors"
    state = load_file(path)
    save_file(state | {"text": state["text"] * float("nan")}, path)
    assert ConditionsCache(tmp_path).get(first.key, SIZE) is None, "what is not finite is damaged"


def test_memory_is_bounded(phantom, photos, monkeypatch):
    calls, cache = counted(phantom, monkeypatch), ConditionsCache(max_items=2)
    for prompt in ("a man", "a woman", "two people", "a man"):
        cache.encode(phantom, prompt, photos[:1], SIZE)
    assert len(calls) == 4
    cache.encode(phantom, "two people", photos[:1], SIZE)
    assert len(calls) == 4


def test_text_is_kept_without_its_padding_and_collated_with_it(base, photos):
    condition = base.encode("a man", photos[:1], SIZE)
    padded = base.text_encoder.encode(["a man"])
    assert len(condition.text) == 3 < base.entry.text_length  # two words and the end
    assert condition.text.untyped_storage().nbytes() == condition.text.numel() * condition.text.element_size()
    assert torch.equal(base.collate([condition]).text, padded)
    other = base.encode("a woman with red hair and a green shirt", photos[:1], SIZE)
    assert len(other.text) > 3
    batch = base.collate([condition, other])
    assert batch.text.shape[1] == batch.negative.shape[1] == base.entry.text_length
    assert torch.equal(batch.text[:1], padded)


def test_a_key_is_of_content_not_of_places(checkpoints, photos, tmp_path):
    """The same encoders elsewhere give the same key, also under another transformer; other encoders give another."""
    cache = ConditionsCache()
    moved = shutil.copytree(checkpoints / "phantom", tmp_path / "moved")
    keys = [cache.key(load_base(str(path)), PROMPT, photos[:1], SIZE) for path in (checkpoints / "phantom", moved)]
    assert keys[0] == keys[1]
    half = load_base(str(moved), vae_dtype="bfloat16")
    path = moved / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    name = next(key for key in state if key.startswith("encoder") and key.endswith("bias"))
    save_file(state | {name: state[name] + 1}, path, metadata={"format": "pt"})
    others = [half, load_base(str(moved))]
    assert len({keys[0], *(cache.key(base, PROMPT, photos[:1], SIZE) for base in others)}) == 3


def test_what_all_cases_share_lies_on_the_disk_once(vace, photos, tmp_path):
    cache = ConditionsCache(tmp_path)
    for prompt in ("a man", "a woman", "two people"):
        cache.encode(vace, prompt, photos[:1], SIZE)
    files = sorted(tmp_path.glob("*.safetensors"), key=lambda path: len(path.name))
    assert len(files) == 4
    assert set(load_file(files[0])) == {"negative", "background"}
    assert all(set(load_file(path)) == {"text", "references"} for path in files[1:])
    again = ConditionsCache(tmp_path)
    first, second = (again.encode(vace, prompt, photos[:1], SIZE) for prompt in ("a man", "a woman"))
    assert first.background is second.background and first.negative is second.negative, "in memory too"


@pytest.fixture
def cases():
    people = [Reference(person="ann", images=["a.png"])]
    return [Case(id=name, prompt=f"a {name}", references=people) for name in ("man", "woman")]


SAMPLER = SamplerConfig(num_steps=1, batch_size=2, width=SIZE.width, height=SIZE.height, frames=SIZE.frames)


@pytest.mark.parametrize("architecture", ["tiny", "wan-1.3b"])
def test_photos_are_read_and_encoded_once_a_case(phantom, cases, photos, monkeypatch, architecture):
    phantom.entry = dataclasses.replace(phantom.entry, architecture=architecture)
    calls, reads = counted(phantom, monkeypatch), []
    jobs = jobs_of(cases, num_per_case=5)
    clips = list(generate(phantom, jobs, sampler=SAMPLER, read=lambda case: reads.append(case.id) or photos[:1]))
    assert len(clips) == 10 and len(calls) == 2
    assert reads == ["man", "woman"]


def test_the_text_encoder_leaves_before_the_transformer_is_read(checkpoints, cases, photos, tmp_path):
    base = load_base(str(checkpoints / "phantom"), with_transformer=False)
    base.entry = dataclasses.replace(base.entry, architecture="wan-1.3b")
    states, read_transformer = [], base._read_transformer
    base._read_transformer = lambda: states.append(base.text_encoder.loaded) or read_transformer()
    whole = load_base(str(checkpoints / "phantom"))
    arguments = {"sampler": SAMPLER, "read": lambda case: photos[:1]}
    clips = list(generate(base, jobs_of(cases), cache=ConditionsCache(tmp_path), **arguments))
    assert states == [False]
    expected = list(generate(whole, jobs_of(cases), **arguments))
    for a, b in zip(clips, expected, strict=True):  # decoded one by one, and together
        assert int((a.frames.int() - b.frames.int()).abs().max()) <= 1


def test_encoding_needs_no_transformer_and_another_run_no_encoder(checkpoints, cases, photos, tmp_path, monkeypatch):
    base, cache = load_base(str(checkpoints / "phantom"), with_transformer=False), ConditionsCache(tmp_path)
    keys = encode_cases(base, cases + cases[:1], SIZE, cache, read=lambda case: photos[:1])
    assert base.transformer is None and not base.text_encoder.loaded
    assert set(keys) == {"man", "woman"} and cache.get(keys["man"], SIZE).size == SIZE
    base.release_encoders()
    later = load_base(str(checkpoints / "phantom"))
    monkeypatch.setattr(later, "encode", lambda *_: pytest.fail("encoded again"))
    jobs = jobs_of(cases, num_per_case=2)
    assert len(
        list(generate(later, jobs, sampler=SAMPLER, cache=ConditionsCache(tmp_path), read=lambda case: photos[:1]))
    )


def test_a_policy_is_put_on_a_base_whose_transformer_comes_later(checkpoints, tmp_path):
    settings = SampleConfig(base=str(checkpoints / "phantom"))
    tuned = load_base(settings.base)
    attach(tuned, rank=2)
    save_adapter(tuned, tmp_path)
    now = load_for_sampling(settings, tmp_path)
    assert lora_layers(now), "the embedded world has memory enough"
    later = load_base(settings.base, with_transformer=False)
    later.when_loaded = now.when_loaded
    later.load_transformer()
    later.load_transformer()  # and only once
    assert lora_layers(later)


def test_what_a_configuration_says_is_checked_before_any_weight_is_read(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints / "vace", tmp_path / "vace")
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"vace_in_channels": 96', '"vace_in_channels": 90'))
    with pytest.raises(UsageError, match="vace_in_channels is 90"):
        load_base(str(folder), with_transformer=False)


def test_room_for_encodings_is_asked_for(phantom, cases, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("idgrpo.run.machine.free_disk_bytes", lambda path: 2 * 2 * 3 * 32 * 32 * 9)
    arguments = {"sampler": SAMPLER, "lossless": True, "read": lambda case: photos[:1]}
    sample_to_folder(phantom, jobs_of(cases), tmp_path / "without", **arguments)
    with pytest.raises(MachineError):
        sample_to_folder(phantom, jobs_of(cases), tmp_path / "with", cache=ConditionsCache(tmp_path / "c"), **arguments)


def test_two_writers_share_a_folder(phantom, photos, tmp_path):
    """Every entry appears whole: drafts have names of their own."""
    first, second = ConditionsCache(tmp_path), ConditionsCache(tmp_path)
    a, b = (cache.encode(phantom, PROMPT, photos[:1], SIZE) for cache in (first, second))
    assert same(a, b)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]

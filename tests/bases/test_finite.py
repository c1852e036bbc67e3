"""Nothing that is not finite is decoded, saved or read; a stop is answered between two denoising steps."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import SIZE

from idgrpo.bases import lora
from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.export import export_adapter
from idgrpo.bases.finite import NotFiniteError, first_not_finite
from idgrpo.bases.generate import jobs_of, renoise
from idgrpo.bases.load import load_base
from idgrpo.bases.sampling import sample_to_folder
from idgrpo.bases.tuned import load_tuned, save_transformer
from idgrpo.errors import ArtifactError, IdgrpoError, StoppedError
from idgrpo.records.models import Case, Reference

SAMPLER = SamplerConfig(num_steps=4, batch_size=2, width=SIZE.width, height=SIZE.height, frames=SIZE.frames)


@pytest.fixture
def cases():
    return [
        Case(id=name, prompt="a man walks", references=[Reference(person="ann", images=["a.png"])])
        for name in ("first", "second")
    ]


@pytest.fixture
def read(photos):
    return lambda case: photos[:1]


def spoil_velocity(base, monkeypatch, *, call, sample):
    """Let one sample's velocity hold a NaN from the given call on."""
    velocity, calls = base.velocity, []

    def spoilt(*arguments):
        calls.append(1)
        found = velocity(*arguments).clone()
        if len(calls) == call:
            found[sample, 0, 0, 0, 0] = float("nan")
        return found

    monkeypatch.setattr(base, "velocity", spoilt)


def test_latents_that_are_not_finite_name_step_and_case_and_no_clip_is_written(
    base, cases, read, tmp_path, monkeypatch
):
    spoil_velocity(base, monkeypatch, call=3, sample=1)
    monkeypatch.setattr(base, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(NotFiniteError, match=r"case 'second', seed 5: .* after step 3 of 4 \(sigma ") as caught:
        sample_to_folder(base, jobs_of(cases, seed=5), tmp_path, sampler=SAMPLER, read=read)
    assert caught.value.exit_code == 1 and caught.value.fix
    assert not list(tmp_path.rglob("*.mp4")) and not (tmp_path / "samples.jsonl").exists()


def test_pixels_that_are_not_finite_name_the_case(phantom, cases, read, tmp_path, monkeypatch):
    decode = phantom.vae.decode

    def spoilt(*arguments, **keywords):
        (pixels,) = decode(*arguments, **keywords)
        pixels[1, 0, 0, 0, 0] = float("inf")
        return (pixels,)

    monkeypatch.setattr(phantom.vae, "decode", spoilt)
    with pytest.raises(NotFiniteError, match="case 'second', seed 0: decoded pixels"):
        sample_to_folder(phantom, jobs_of(cases), tmp_path, sampler=SAMPLER, read=read)
    assert not list(tmp_path.rglob("*.mp4"))


def test_encodings_that_are_not_finite_name_the_case(phantom, cases, read, tmp_path, monkeypatch):
    weight = phantom.vae.encoder.conv_in.weight
    weight.data = weight.data * float("nan")
    with pytest.raises(NotFiniteError, match="case 'first': .*reference"):
        sample_to_folder(phantom, jobs_of(cases), tmp_path, sampler=SAMPLER, read=read)


def test_a_clip_made_again_is_checked_too(phantom, photos, monkeypatch):
    spoil_velocity(phantom, monkeypatch, call=1, sample=0)
    clip = torch.zeros(9, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(NotFiniteError, match="after step 1 of"):
        renoise(phantom, clip, photos[:1], "a man", 0.6, 3, sampler=SamplerConfig(num_steps=4))


def spoilt_adapter(base):
    lora.attach(base, rank=2)
    _, layer = lora.lora_layers(base)[1]
    layer.lora_B[lora.POLICY].weight.data[0, 1] = float("nan")
    return lora.lora_layers(base)[1][0]


def test_an_adapter_that_is_not_finite_is_not_saved(phantom, tmp_path):
    name = spoilt_adapter(phantom)
    with pytest.raises(IdgrpoError, match=f"{name}.lora_B.weight is not finite"):
        lora.save_adapter(phantom, tmp_path / "adapter")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_whole_weights_that_are_not_finite_are_not_saved(phantom, tmp_path):
    phantom.transformer.blocks[1].ffn.net[2].bias.data[0] = float("inf")
    with pytest.raises(IdgrpoError, match=r"blocks\.1\.ffn\.net\.2\.bias is not finite"):
        save_transformer(phantom, tmp_path / "policy")
    assert not list(tmp_path.rglob("*.safetensors"))


def spoil_file(path):
    """Put a NaN into the second matrix of a safetensors file; give its key."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    key = sorted(state)[1]
    state[key].view(-1)[0] = float("nan")
    save_file(state, path, metadata=metadata)
    return key


@pytest.mark.parametrize("use", ["load", "export"])
def test_an_adapter_file_that_is_not_finite_is_refused(fresh, tmp_path, use):
    base = fresh("phantom")
    lora.attach(base, rank=2)
    path = lora.save_adapter(base, tmp_path / "adapter")
    key, out = spoil_file(path), tmp_path / "comfy.safetensors"
    other = fresh("phantom")
    with pytest.raises(ArtifactError, match=f"{key} is not finite") as caught:
        lora.load_adapter(other, path) if use == "load" else export_adapter(path, "comfyui", out)
    assert str(path) in caught.value.message
    assert not out.exists()


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_weights_of_a_base_that_are_not_finite_are_refused(checkpoints, tmp_path, part):
    import shutil

    folder = shutil.copytree(checkpoints / "phantom", tmp_path / "base")
    key = spoil_file(folder / part / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ArtifactError, match=f"{part}.*{key} is not finite"):
        load_base(str(folder))


def test_an_original_file_that_is_not_finite_is_refused(checkpoints, tmp_path):
    import shutil

    folder = shutil.copytree(checkpoints / "original", tmp_path / "original")
    path = folder / "Phantom-Wan-1.3B.pth"
    state = torch.load(path, weights_only=True)
    state["head.head.bias"][2] = float("nan")
    torch.save(state, path)
    with pytest.raises(ArtifactError, match=r"Phantom-Wan-1\.3B\.pth: head\.head\.bias is not finite"):
        load_base(str(path))


def test_a_whole_policy_that_is_not_finite_is_refused(fresh, tmp_path):
    base = fresh("phantom")
    save_transformer(base, tmp_path / "policy")
    key = spoil_file(tmp_path / "policy" / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ArtifactError, match=f"{key} is not finite"):
        load_tuned(fresh("phantom"), tmp_path / "policy")


def test_first_not_finite_looks_at_every_kind_of_tensor():
    fine = {"a": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3), "empty": torch.empty(0)}
    assert first_not_finite(fine) is None
    for value in ("nan", "inf", "-inf"):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            bad = torch.zeros(3, 5, dtype=dtype)
            bad[1, 2] = float(value)
            assert first_not_finite(fine | {"bad": bad}) == "bad"


def test_a_stop_is_answered_between_denoising_steps_and_finished_clips_are_kept(
    phantom, cases, read, tmp_path, monkeypatch
):
    calls, velocity = [], phantom.velocity
    monkeypatch.setattr(phantom, "velocity", lambda *a: calls.append(1) or velocity(*a))

    def check():
        if len(calls) == 6:  # the second clip, after two of its four steps
            raise StoppedError("stop")

    sampler = SAMPLER.model_copy(update={"batch_size": 1})
    with pytest.raises(StoppedError):
        sample_to_folder(phantom, jobs_of(cases), tmp_path, sampler=sampler, read=read, check=check)
    assert len(calls) == 6
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["first--s0.mp4"]
    samples = sample_to_folder(phantom, jobs_of(cases), tmp_path, sampler=sampler, read=read)
    assert [sample.case_id for sample in samples] == ["first", "second"] and len(calls) == 10
    assert json.loads((tmp_path / "samples.jsonl").read_text().splitlines()[1])["case_id"] == "second"


def test_a_stop_is_answered_while_a_clip_is_made_again(phantom, photos):
    def check():
        raise StoppedError("stop")

    clip = torch.zeros(9, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(StoppedError):
        renoise(phantom, clip, photos[:1], "a man", 0.6, 3, sampler=SamplerConfig(num_steps=4), check=check)

"""What leaves for other programs: the order of references is stated, dtypes are kept, merged weights are the tuned model."""

import json

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel, WanVACEPipeline, WanVACETransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file
from test_lora import trained, velocity

from idgrpo.bases import lora
from idgrpo.bases.export import export_adapter, read_adapter
from idgrpo.bases.keymap import to_diffusers
from idgrpo.bases.load import load_base
from idgrpo.bases.tuned import load_tuned, open_all, save_transformer
from idgrpo.errors import UsageError


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("form", ["diffusers", "comfyui"])
@pytest.mark.parametrize(("turned", "order"), [(False, "forward"), (True, "reversed")])
def test_a_vace_file_states_the_order_it_was_trained_with(checkpoints, tmp_path, form, turned, order):
    base = trained(load_base(str(checkpoints / "vace"), reversed_references=turned))
    saved = lora.save_adapter(base, tmp_path / "policy")
    assert metadata_of(saved)["reference_order"] == order
    assert json.loads(metadata_of(saved)["lora_adapter_metadata"])["transformer.lora_alpha"] == 8.0
    out = tmp_path / "out.safetensors"
    assert export_adapter(saved, form, out).reference_order == order
    assert metadata_of(out)["reference_order"] == order


def test_phantom_has_no_order_to_state_and_old_files_are_forward(checkpoints, tmp_path):
    from safetensors.torch import save_file

    saved = lora.save_adapter(trained(load_base(str(checkpoints / "phantom"))), tmp_path / "phantom")
    assert "reference_order" not in metadata_of(saved)
    assert export_adapter(saved, "comfyui", tmp_path / "a").reference_order is None
    saved = lora.save_adapter(trained(load_base(str(checkpoints / "vace"))), tmp_path / "vace")
    save_file(load_file(saved), saved, metadata={"format": "pt"})
    export_adapter(saved, "diffusers", tmp_path / "b")
    assert metadata_of(tmp_path / "b")["reference_order"] == "forward"


@pytest.mark.parametrize("name", ["vace", "phantom"])
@pytest.mark.parametrize("form", ["diffusers", "comfyui"])
def test_half_precision_halves_the_file_and_keeps_alpha(checkpoints, tmp_path, photos, name, form):
    base = trained(load_base(str(checkpoints / name)))
    saved = lora.save_adapter(base, tmp_path / "policy")
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    export_adapter(saved, form, full)
    export_adapter(saved, form, half, dtype="bfloat16")
    factors = {key: value for key, value in load_file(half).items() if ".lora_" in key}
    assert {value.dtype for value in factors.values()} == {torch.bfloat16}
    assert half.stat().st_size < 0.8 * full.stat().st_size
    if form == "diffusers":
        pipeline = (WanVACEPipeline if name == "vace" else WanPipeline).from_pretrained(
            checkpoints / name, local_files_only=True
        )
        pipeline.load_lora_weights(tmp_path, weight_name=half.name)
        expected = velocity(base, photos)
        base.transformer = pipeline.transformer
        assert torch.allclose(expected, velocity(base, photos), atol=0.02)
        assert read_adapter(half).alpha == 8.0


def test_the_file_is_written_alike_each_time(checkpoints, tmp_path):
    saved = lora.save_adapter(trained(load_base(str(checkpoints / "vace"))), tmp_path / "policy")
    contents = set()
    for number in range(4):
        export_adapter(saved, "diffusers", tmp_path / str(number))
        contents.add((tmp_path / str(number)).read_bytes())
    assert contents == {saved.read_bytes()}


@pytest.mark.parametrize("name", ["vace", "phantom"])
@pytest.mark.parametrize("trained_part", ["lora", "full"])
def test_merged_weights_are_the_tuned_model(checkpoints, tmp_path, photos, name, trained_part):
    base = load_base(str(checkpoints / name))
    plain = velocity(base, photos)
    if trained_part == "lora":
        lora.save_adapter(trained(base), tmp_path / "policy")
    else:
        open_all(base)
        with torch.no_grad():
            base.transformer.proj_out.weight.mul_(1.5)
        save_transformer(base, tmp_path / "policy")
    expected = velocity(base, photos)
    source = str(checkpoints / name)
    export_adapter(tmp_path / "policy", "diffusers", tmp_path / "merged", merged_into=source)
    fresh = load_base(source)
    model = WanVACETransformer3DModel if name == "vace" else WanTransformer3DModel
    fresh.transformer = model.from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(expected, velocity(fresh, photos), atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-3)
    file = tmp_path / "comfy.safetensors"
    export_adapter(tmp_path / "policy", "comfyui", file, merged_into=source)
    fresh = load_base(source)
    fresh.transformer.load_state_dict({to_diffusers(key): value for key, value in load_file(file).items()})
    assert torch.allclose(expected, velocity(fresh, photos), atol=1e-5)
    half = tmp_path / "half.safetensors"
    export_adapter(tmp_path / "policy", "comfyui", half, dtype="bfloat16", merged_into=source)
    dtypes = {key: value.dtype for key, value in load_file(half).items()}
    assert dtypes["blocks.0.self_attn.q.weight"] == torch.bfloat16 and dtypes["blocks.0.norm3.weight"] == torch.float32
    if trained_part == "lora" and name == "vace":
        assert metadata_of(half)["reference_order"] == "forward"


def test_wrong_words_are_refused_before_anything_is_written(checkpoints, tmp_path):
    saved = lora.save_adapter(trained(load_base(str(checkpoints / "phantom"))), tmp_path / "policy")
    with pytest.raises(UsageError, match="no dtype 'float16'"):
        export_adapter(saved, "comfyui", tmp_path / "out", dtype="float16")
    with pytest.raises(UsageError, match="unknown base 'phantm'"):
        export_adapter(saved, "comfyui", tmp_path / "out", merged_into="phantm")
    (tmp_path / "file").write_text("there")
    with pytest.raises(UsageError, match="is a file, a folder is needed"):
        export_adapter(saved, "diffusers", tmp_path / "file", merged_into=str(checkpoints / "phantom"))
    assert not (tmp_path / "out").exists() and (tmp_path / "file").read_text() == "there"


def test_a_policy_of_the_other_order_is_told(checkpoints, tmp_path, caplog):
    turned = trained(load_base(str(checkpoints / "vace"), reversed_references=True))
    lora.save_adapter(turned, tmp_path)
    load_tuned(load_base(str(checkpoints / "vace"), reversed_references=True), tmp_path)
    assert not caplog.records
    load_tuned(load_base(str(checkpoints / "vace")), tmp_path)
    assert "trained with references in reversed order" in caplog.text


def test_merging_says_when_the_policy_was_trained_on_quantised_weights(checkpoints, tmp_path, caplog):
    base = load_base(str(checkpoints / "phantom-tiny"))
    lora.attach(base, rank=2)
    lora.save_adapter(base, tmp_path / "policy")
    (tmp_path / "policy" / "policy.json").write_text('{"config": {"engine": {"base_weights": "int8"}}}')
    export_adapter(tmp_path / "policy", "diffusers", tmp_path / "merged", merged_into=str(checkpoints / "phantom-tiny"))
    assert "was trained on int8 weights of its base" in caplog.text

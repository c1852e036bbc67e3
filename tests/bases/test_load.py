import gc
import json
import shutil
from pathlib import Path

import pytest
import tiny_checkpoints
import torch
from tiny_checkpoints import SIZE, draw

from idgrpo.bases.contract import Guidance
from idgrpo.bases.load import find_parts, load_base, resolve_entry
from idgrpo.bases.weights import WEIGHTS_ENV
from idgrpo.errors import ArtifactError, MachineError, UsageError


@pytest.fixture
def copy(checkpoints, tmp_path):
    """Copy a checkpoint so that a test can damage it."""

    def make(name):
        return shutil.copytree(checkpoints / name, tmp_path / name)

    return make


def velocity(base, photos):
    batch = base.collate([base.encode("a man", photos[:2], SIZE)])
    return base.velocity(draw((1, *base.latent_shape(SIZE, 2))), torch.tensor([0.6]), batch, Guidance(7.5, 5.0))


def test_original_file_equals_the_diffusers_folder(checkpoints, photos):
    original = load_base(str(checkpoints / "original" / "Phantom-Wan-1.3B.pth"))
    folder = load_base(str(checkpoints / "phantom"))
    assert torch.equal(velocity(original, photos), velocity(folder, photos))


def test_hub_names_are_found_in_the_weights_folder(checkpoints, tmp_path, monkeypatch):
    root = tmp_path / "weights"
    tiny_checkpoints.write_original_phantom(root / "bytedance-research" / "Phantom")
    shutil.move(
        root / "bytedance-research" / "Phantom" / "Wan2.1-T2V-1.3B-Diffusers", root / "Wan2.1-T2V-1.3B-Diffusers"
    )
    shutil.copytree(checkpoints / "vace", root / "Wan-AI" / "Wan2.1-VACE-1.3B-diffusers")
    monkeypatch.setenv(WEIGHTS_ENV, str(root))
    assert load_base("vace").name == "vace"
    assert load_base("phantom").entry.guidance == Guidance(7.5, 5.0)


def test_shards_of_the_large_phantom(checkpoints, tmp_path, monkeypatch):
    root = tmp_path / "weights"
    tiny_checkpoints.write_original_phantom(root / "Phantom", num_shards=3)
    shutil.move(root / "Phantom" / "Wan2.1-T2V-1.3B-Diffusers", root / "Wan2.1-T2V-1.3B-Diffusers")
    monkeypatch.setenv(WEIGHTS_ENV, str(root))
    loaded = load_base("phantom-14b").transformer.state_dict()
    expected = load_base(str(checkpoints / "phantom")).transformer.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_a_shard_that_the_index_names_and_is_not_there(tmp_path, monkeypatch):
    root = tmp_path / "weights"
    folder = tiny_checkpoints.write_original_phantom(root / "Phantom", num_shards=2)
    shutil.move(folder / "Wan2.1-T2V-1.3B-Diffusers", root / "Wan2.1-T2V-1.3B-Diffusers")
    index = {"weight_map": {str(number): f"Phantom_Wan_14B-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)}}
    (folder / "Phantom_Wan_14B.safetensors.index.json").write_text(json.dumps(index))
    monkeypatch.setenv(WEIGHTS_ENV, str(root))
    with pytest.raises(ArtifactError, match="lacks shards: .*Phantom_Wan_14B-00003-of-00003"):
        load_base("phantom-14b")


@pytest.mark.parametrize("name", ["vace", "vace-14b", "phantom", "phantom-14b"])
def test_weights_that_are_not_here_name_the_one_command_and_the_size(name, tmp_path, monkeypatch):
    monkeypatch.setenv(WEIGHTS_ENV, str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MachineError) as caught:
        load_base(name)
    assert caught.value.exit_code == 6
    assert "hf download" in caught.value.fix
    assert "GB" in caught.value.message


def test_phantom_without_its_companion_says_what_is_missing(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv(WEIGHTS_ENV, str(tmp_path))
    (tmp_path / "Phantom").mkdir()
    shutil.copy(checkpoints / "original" / "Phantom-Wan-1.3B.pth", tmp_path / "Phantom")
    with pytest.raises(MachineError, match="its vae"):
        load_base("phantom")


@pytest.mark.parametrize(("device", "error"), [("cuda:99", MachineError), ("gpu", UsageError)])
def test_devices_that_are_not_here_are_named(checkpoints, device, error):
    with pytest.raises(error, match=device):
        load_base(str(checkpoints / "phantom"), device=device)


def test_unknown_names_get_the_nearest_known():
    with pytest.raises(UsageError, match=r"did you mean 'phantom'\?") as caught:
        load_base("phantm")
    assert caught.value.exit_code == 2


def test_a_commit_pins_the_revision():
    assert resolve_entry("vace@abc123").revision == "abc123"
    assert resolve_entry("vace").revision is None


def test_truncated_weights_are_named(copy):
    folder = copy("vace")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="transformer cannot be read") as caught:
        load_base(str(folder))
    assert caught.value.exit_code == 4


def test_a_damaged_original_file_is_named(copy):
    folder = copy("original")
    path = folder / "Phantom-Wan-1.3B.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"Phantom-Wan-1\.3B\.pth cannot be read"):
        load_base(str(path))


def test_code_in_a_pickle_is_not_run(copy):
    folder = copy("original")
    path, trace = folder / "Phantom-Wan-1.3B.pth", folder / "trace"

    class Evil:
        def __reduce__(self):
            return (open, (str(trace), "w"))

    torch.save({"patch_embedding.weight": Evil()}, path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_base(str(path))
    assert not trace.exists()


def test_missing_and_unexpected_keys_are_listed(copy):
    folder = copy("original")
    path = folder / "Phantom-Wan-1.3B.pth"
    state = torch.load(path, weights_only=True)
    state["blocks.0.self_attn.extra.weight"] = state.pop("blocks.1.ffn.0.bias")
    state["head.head.bias"] = state["head.head.bias"][:3]
    torch.save(state, path)
    with pytest.raises(ArtifactError) as caught:
        load_base(str(path))
    assert "1 missing: blocks.1.ffn.0.bias" in caught.value.message
    assert "1 unexpected: blocks.0.self_attn.extra.weight" in caught.value.message
    assert "1 of another shape: head.head.bias (3,) instead of (64,)" in caught.value.message


def test_missing_keys_in_a_folder_are_listed(copy):
    from safetensors.torch import load_file, save_file

    folder = copy("phantom")
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state.pop("blocks.1.attn1.to_q.weight")
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"blocks\.1\.attn1\.to_q\.weight"):
        load_base(str(folder))


@pytest.mark.parametrize("name", ["encoder.final_layer_norm.weight", "shared.weight"])
def test_missing_keys_of_the_text_encoder_are_listed(copy, name):
    from safetensors.torch import load_file, save_file

    folder = copy("phantom")
    path = folder / "text_encoder" / "model.safetensors"
    state = load_file(path)
    state.pop(name)
    save_file(state, path, metadata={"format": "pt"})
    base = load_base(str(folder))  # its weights are read at the first prompt
    with pytest.raises(ArtifactError, match=name):
        base.text_encoder.encode(["a man"])


def test_another_class_of_checkpoint_is_refused(copy):
    folder = copy("vace")
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "CogVideoXTransformer3DModel"}))
    with pytest.raises(UsageError, match="holds a CogVideoXTransformer3DModel"):
        load_base(str(folder))


def test_a_phantom_under_the_name_of_vace_is_refused(checkpoints, tmp_path, monkeypatch):
    shutil.copytree(checkpoints / "phantom", tmp_path / "Wan2.1-VACE-1.3B-diffusers")
    monkeypatch.setenv(WEIGHTS_ENV, str(tmp_path))
    with pytest.raises(UsageError, match="this base needs a WanVACETransformer3DModel"):
        load_base("vace")


def test_an_image_to_video_transformer_is_refused(tmp_path):
    folder = tiny_checkpoints.write_diffusers_base(tmp_path / "i2v", "phantom", in_channels=36, out_channels=16)
    with pytest.raises(UsageError, match="in_channels is 36, its VAE makes 16"):
        load_base(str(folder))


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    from safetensors.torch import save_file

    save_file({"encoder.weight": torch.zeros(2)}, path)
    with pytest.raises(UsageError, match="not a transformer of the Wan family"):
        load_base(str(path))
    with pytest.raises(UsageError, match=r"no transformer/config\.json"):
        load_base(str(tmp_path))


def test_components_come_from_the_companion_that_model_index_names(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "phantom", tmp_path / "shared")
    (tmp_path / "own").mkdir()
    shutil.move(tmp_path / "shared" / "transformer", tmp_path / "own" / "transformer")
    index = json.loads((tmp_path / "shared" / "model_index.json").read_text())
    (tmp_path / "own" / "model_index.json").write_text(json.dumps(index | {"_companion": "../shared"}))
    assert load_base(str(tmp_path / "own")).geometry.spatial == 8


def test_half_precision_keeps_what_diffusers_keeps(checkpoints):
    for source in ("phantom", "original/Phantom-Wan-1.3B.pth"):
        base = load_base(str(checkpoints / source), dtype=torch.bfloat16)
        assert base.transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
        assert base.transformer.blocks[0].norm2.weight.dtype == torch.float32
        assert base.transformer.scale_shift_table.dtype == torch.float32
        assert next(base.vae.parameters()).dtype == torch.float32


def test_text_encoder_is_read_at_the_first_prompt_and_can_leave(checkpoints):
    phantom = load_base(str(checkpoints / "phantom"))
    assert not phantom.text_encoder.loaded
    first = phantom.text_encoder.encode(["a man"])
    phantom.text_encoder.release()
    assert not phantom.text_encoder.loaded
    assert torch.equal(first, phantom.text_encoder.encode(["a man"]))


def test_tiled_decoding_covers_the_frame(checkpoints):
    base = load_base(str(checkpoints / "phantom"), vae_tiling=True)
    base.vae.enable_tiling(32, 32, 16, 16)
    batch = base.collate([base.encode("a man", [torch.zeros(3, 32, 32, dtype=torch.uint8)], SIZE._replace(width=80))])
    latents = draw((1, *base.latent_shape(batch.size, 1)))
    tiled = base.decode(latents, batch)
    base.vae.disable_tiling()
    whole = base.decode(latents, batch)
    assert tiled.shape == whole.shape == (1, 9, 3, 32, 80)
    assert float((tiled - whole).abs().mean()) < 0.5 * float(whole.std())


def test_vae_may_move_or_change_its_precision_at_any_time(phantom):
    batch = phantom.collate([phantom.encode("a man", [torch.zeros(3, 32, 32, dtype=torch.uint8)], SIZE)])
    latents = draw((1, *phantom.latent_shape(SIZE, 1)))
    before = phantom.decode(latents, batch)
    phantom.vae.to(torch.bfloat16)
    after = phantom.decode(latents, batch)
    assert after.dtype == torch.float32
    assert float((before - after).abs().mean()) < 0.05


def test_parts_of_a_folder(checkpoints):
    main, parts = find_parts(resolve_entry(str(checkpoints / "vace")))
    assert {part: path.parent for part, path in parts.items()} == dict.fromkeys(
        ("transformer", "vae", "text_encoder", "tokenizer"), main
    )


@pytest.mark.parametrize(
    ("index", "sign"),
    [
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "transformer_2"),
        ({"boundary_ratio": 0.875}, "boundary_ratio"),
        ({"expand_timesteps": True}, "expand_timesteps"),
        ({}, "transformer_2"),
    ],
)
def test_a_model_of_two_experts_is_refused_by_name(copy, index, sign):
    folder = copy("phantom")
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))
    if not index:
        shutil.copytree(folder / "transformer", folder / "transformer_2")
    with pytest.raises(UsageError, match=rf"Wan 2\.2 model \({sign}\)") as caught:
        load_base(str(folder))
    assert str(folder) in caught.value.message
    with pytest.raises(UsageError, match=sign):
        find_parts(resolve_entry(str(folder)))


def test_a_folder_that_denies_a_second_expert_is_fine(copy):
    folder = copy("phantom")
    path = folder / "model_index.json"
    denied = {"transformer_2": [None, None], "boundary_ratio": None, "expand_timesteps": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | denied))
    assert load_base(str(folder)).name == str(folder)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_an_unknown_base(name):
    with pytest.raises(UsageError, match="unknown base"):
        resolve_entry(name)


@pytest.mark.parametrize("name", ["original/Phantom-Wan-1.3B.pth", "phantom", "vace"])
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_a_float32_file_read_as_bf16_leaves_memory(copy, name):
    folder = copy(name.partition("/")[0])
    base = load_base(str(folder / name.partition("/")[2]), dtype=torch.bfloat16)
    assert {value.dtype for value in base.transformer.state_dict().values()} == {torch.bfloat16, torch.float32}
    gc.collect()
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    ours = [path for path in mapped if str(folder) in path]
    assert [path for path in ours if path.endswith(".pth") or "/transformer/" in path] == []

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from idgrpo.bases.architectures import ARCHITECTURES
from idgrpo.bases.cost import transformer_parameters
from idgrpo.bases.keymap import to_diffusers, to_original


@pytest.fixture(scope="module", params=ARCHITECTURES)
def full_size(request):
    """Give (name, model on the meta device) of each public model at full size."""
    config = ARCHITECTURES[request.param]
    with init_empty_weights():
        model = (WanVACETransformer3DModel if "vace_layers" in config else WanTransformer3DModel)(**config)
    return request.param, model


def test_every_key_goes_there_and_back(full_size):
    _, model = full_size
    keys = list(model.state_dict())
    originals = [to_original(key) for key in keys]
    assert None not in originals
    assert len(set(originals)) == len(keys)
    assert [to_diffusers(key) for key in originals] == keys


def test_map_agrees_with_diffusers_own_converter_in_names_and_shapes(full_size):
    _, model = full_size
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    original = {to_original(key): value for key, value in model.state_dict().items()}
    theirs = convert_wan_transformer_to_diffusers(dict(original))
    assert {key: tuple(value.shape) for key, value in theirs.items()} == expected
    ours = {to_diffusers(key): tuple(value.shape) for key, value in original.items()}
    assert ours == expected


def test_sizes_are_the_published_ones(full_size):
    name, model = full_size
    counted = sum(value.numel() for value in model.parameters())
    assert transformer_parameters(ARCHITECTURES[name]) == counted
    published = {"wan-1.3b": 1_418_996_800, "vace-1.3b": 2_153_972_032}
    assert counted == published.get(name, counted)
    keys = {"wan-1.3b": 825}
    assert len(model.state_dict()) == keys.get(name, len(model.state_dict()))


def test_known_names_of_the_original_code():
    # Read in the original repository, not derived from the map.
    pairs = {
        "blocks.3.self_attn.q.weight": "blocks.3.attn1.to_q.weight",
        "blocks.3.cross_attn.o.bias": "blocks.3.attn2.to_out.0.bias",
        "blocks.0.norm3.weight": "blocks.0.norm2.weight",
        "blocks.0.modulation": "blocks.0.scale_shift_table",
        "blocks.0.ffn.0.weight": "blocks.0.ffn.net.0.proj.weight",
        "head.head.weight": "proj_out.weight",
        "head.modulation": "scale_shift_table",
        "time_projection.1.bias": "condition_embedder.time_proj.bias",
        "vace_blocks.0.before_proj.weight": "vace_blocks.0.proj_in.weight",
        "vace_blocks.2.after_proj.bias": "vace_blocks.2.proj_out.bias",
    }
    for original, diffusers in pairs.items():
        assert to_diffusers(original) == diffusers
        assert to_original(diffusers) == original


@pytest.mark.parametrize("key", ["blocks.0.self_attn.z.weight", "img_emb.proj.0.weight", "encoder.conv1.weight", ""])
def test_strange_keys_have_no_name(key):
    assert to_diffusers(key) is None


def test_lora_tails_are_kept():
    assert to_original("blocks.1.attn1.to_q.lora_A.weight") == "blocks.1.self_attn.q.lora_A.weight"
    assert to_diffusers("vace_blocks.0.ffn.2.lora_up.weight") == "vace_blocks.0.ffn.net.2.lora_up.weight"
    assert to_diffusers("blocks.1.self_attn.q.alpha") == "blocks.1.attn1.to_q.alpha"


def test_values_survive(tmp_path):
    from tiny_checkpoints import make_transformer

    model = make_transformer("phantom", 0)
    state = model.state_dict()
    there_and_back = {to_diffusers(to_original(key)): value for key, value in state.items()}
    assert all(torch.equal(there_and_back[key], value) for key, value in state.items())

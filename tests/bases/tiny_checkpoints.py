"""Write tiny random checkpoints in exactly the on-disk formats of the public ones.

- `write_diffusers_base`: a diffusers folder (model_index.json, transformer/, vae/, text_encoder/, tokenizer/, scheduler/)
  as `Wan-AI/Wan2.1-VACE-1.3B-diffusers` or `Wan-AI/Wan2.1-T2V-1.3B-Diffusers` has it;
- `write_original_phantom`: one file with the original code's key names, as `Phantom-Wan-1.3B.pth`; shards as the 14B.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel, WanVACETransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

from idgrpo.bases.contract import VideoSize
from idgrpo.bases.keymap import to_original

SIZE = VideoSize(32, 32, 9)

WORDS = [
    "a",
    "b",
    "man",
    "woman",
    "with",
    "red",
    "blue",
    "hair",
    "and",
    "green",
    "shirt",
    "walk",
    "walks",
    "cross",
    "meet",
    "beach",
    "street",
    "two",
    "people",
    "the",
    "in",
    "on",
]
TEXT_DIM = 16

PUBLIC_VAE = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}
"""8x in space, 4x in time: the structure of the public VAE."""
TINY_VAE = {
    "base_dim": 8,
    "dim_mult": [1, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [True],
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 4,
    "scale_factor_temporal": 2,
}
"""4x in space (patch 2, one halving), 2x in time: the structure of the embedded world's VAE."""

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": TEXT_DIM,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}


def draw(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Draw the same numbers each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_vae(structure: dict, seed: int = 0) -> AutoencoderKLWan:
    """Make a random VAE with weights large enough that different pixels give clearly different latents."""
    torch.manual_seed(seed)
    return AutoencoderKLWan(z_dim=16, **structure).eval()


def make_transformer(family: str, mask_channels: int, seed: int = 1, **changes) -> torch.nn.Module:
    """Make a random transformer; the output of its last layer is of the order of 1."""
    torch.manual_seed(seed)
    if family == "vace":
        return WanVACETransformer3DModel(
            **(TRANSFORMER | {"vace_layers": [0, 1], "vace_in_channels": 32 + mask_channels} | changes)
        ).eval()
    return WanTransformer3DModel(**(TRANSFORMER | changes)).eval()


def make_text_encoder(seed: int = 2) -> UMT5EncoderModel:
    """Make a random UMT5 encoder of 16 channels."""
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=len(WORDS) + 3,
        d_model=TEXT_DIM,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=8,
    )
    model = UMT5EncoderModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def make_tokenizer() -> T5TokenizerFast:
    """Make a unigram tokenizer of a few words with T5's special tokens and template."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0)] + [("▁" + word, -2.0) for word in WORDS]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(
        tokenizer_object=backend, vocab=vocabulary, extra_ids=0, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def write_diffusers_base(folder: Path, family: str, structure: dict = PUBLIC_VAE, **changes) -> Path:
    """Write a whole diffusers folder; `changes` go to the transformer."""
    vae = make_vae(structure)
    downsample = structure["temperal_downsample"]
    mask_channels = (2 ** len(downsample) * structure.get("patch_size", 1)) ** 2
    write_parts(folder, make_transformer(family, mask_channels, **changes), vae)
    pipeline = "WanVACEPipeline" if family == "vace" else "WanPipeline"
    transformer = "WanVACETransformer3DModel" if family == "vace" else "WanTransformer3DModel"
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.34.0.dev0",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", transformer],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def write_parts(folder: Path, transformer: torch.nn.Module | None, vae: AutoencoderKLWan) -> None:
    """Write the component folders; without a transformer this is the companion of an original Phantom file."""
    folder.mkdir(parents=True, exist_ok=True)
    if transformer is not None:
        transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    make_text_encoder().save_pretrained(folder / "text_encoder")
    make_tokenizer().save_pretrained(folder / "tokenizer")
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    ).save_pretrained(folder / "scheduler")


def original_state(transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Give a transformer's weights under the original code's names."""
    return {to_original(key): value.clone() for key, value in transformer.state_dict().items()}


def write_original_phantom(folder: Path, structure: dict = PUBLIC_VAE, *, num_shards: int = 0, **changes) -> Path:
    """Write an original Phantom checkpoint beside its companion; returns the .pth file, or the folder of shards.

    A config.json beside it says what the file itself cannot (heads), since a tiny model is no public architecture.
    """
    transformer = make_transformer("phantom", 0, **changes)
    write_parts(folder / "Wan2.1-T2V-1.3B-Diffusers", None, make_vae(structure))
    state = original_state(transformer)
    (folder / "config.json").write_text(json.dumps(dict(transformer.config), default=list))
    if not num_shards:
        path = folder / "Phantom-Wan-1.3B.pth"
        torch.save(state, path)
        return path
    from safetensors.torch import save_file

    keys = sorted(state)
    for shard in range(num_shards):
        part = {key: state[key].contiguous() for key in keys[shard::num_shards]}
        save_file(part, folder / f"Phantom_Wan_14B-{shard + 1:05d}-of-{num_shards:05d}.safetensors")
    return folder

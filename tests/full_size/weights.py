"""Checkpoints with random weights in the public architectures and on-disk formats, for `$IDGRPO_WEIGHTS`.

`scale` "full" writes the published sizes (29 GB), "tiny" the same files with narrow layers, to try the whole way in seconds.
"""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.bases.tiny_checkpoints import (
    PUBLIC_VAE,
    TEXT_DIM,
    TRANSFORMER,
    make_text_encoder,
    make_tokenizer,
    original_state,
)
from tests.reward.tiny_vlm import CHAT_TEMPLATE, SPECIAL, byte_tokenizer, write_tiny_vlm

from idgrpo.bases.architectures import ARCHITECTURES

VACE, PHANTOM = "Wan-AI/Wan2.1-VACE-1.3B-diffusers", "bytedance-research/Phantom"
WAN, QWEN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Qwen/Qwen2.5-VL-3B-Instruct"
SHARD = "5GB"
UMT5_XXL = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "relative_attention_num_buckets": 32, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
QWEN_VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14, "temporal_patch_size": 2,
    "spatial_merge_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "out_hidden_size": 2048,
    "tokens_per_second": 2,
}  # fmt: skip
QWEN_TEXT = {
    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip


def write_all(folder: Path, scale: str) -> None:
    """Write what is missing of the checkpoints; each appears whole or not at all."""
    for name, write in WRITERS.items():
        if not (folder / name).exists():
            draft = folder / f".{name.replace('/', '+')}"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            write(draft, folder, scale == "full")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            draft.rename(folder / name)


def _write_wan(folder: Path, _: Path, is_full: bool) -> None:
    """Write VAE, text encoder (bf16, in shards), tokenizer and scheduler: what VACE and Phantom share."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    vae = {} if is_full else PUBLIC_VAE
    random_weights(lambda: AutoencoderKLWan(**vae), torch.float32).save_pretrained(folder / "vae")
    if is_full:
        text = random_weights(lambda: UMT5EncoderModel(UMT5Config(**UMT5_XXL)), torch.bfloat16)
    else:
        text = make_text_encoder()
    text.save_pretrained(folder / "text_encoder", max_shard_size=SHARD)
    del text
    make_tokenizer().save_pretrained(folder / "tokenizer")
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.save_pretrained(folder / "scheduler")
    parts = {"vae": ["diffusers", "AutoencoderKLWan"], "text_encoder": ["transformers", "UMT5EncoderModel"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"} | parts))


def _write_vace(folder: Path, all_of_them: Path, is_full: bool) -> None:
    """Write the transformer in bf16 beside links to Wan's other parts."""
    from diffusers import WanVACETransformer3DModel

    config = _transformer("vace-1.3b", is_full)
    model = random_weights(lambda: WanVACETransformer3DModel(**config), torch.bfloat16 if is_full else torch.float32)
    model.save_pretrained(folder / "transformer", max_shard_size=SHARD)
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(all_of_them / WAN / part, folder / part, copy_function=_link)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanVACEPipeline"}))


def _write_phantom(folder: Path, _: Path, is_full: bool) -> None:
    """Write the original code's single file, in float32 as it is published."""
    from diffusers import WanTransformer3DModel

    config = _transformer("wan-1.3b", is_full)
    model = random_weights(lambda: WanTransformer3DModel(**config), torch.float32)
    torch.save(original_state(model), folder / "Phantom-Wan-1.3B.pth")
    if not is_full:  # a narrow file cannot say how many heads it has
        (folder / "config.json").write_text(json.dumps(dict(model.config), default=list))


def _write_qwen(folder: Path, _: Path, is_full: bool) -> None:
    """Write the vision-language model in bf16 with a processor of bytes, which needs no download."""
    if not is_full:
        write_tiny_vlm(folder, min_pixels=256, max_pixels=4096)
        return
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = byte_tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen2_5_VLConfig(
        vision_config=QWEN_VISION,
        text_config=QWEN_TEXT | {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = random_weights(lambda: Qwen2_5_VLForConditionalGeneration(config), torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=SHARD)
    geometry = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**geometry),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**geometry),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


WRITERS: dict[str, Callable[[Path, Path, bool], None]] = {
    WAN: _write_wan,
    VACE: _write_vace,
    PHANTOM: _write_phantom,
    QWEN: _write_qwen,
}


def _transformer(name: str, is_full: bool) -> dict[str, Any]:
    config = dict(ARCHITECTURES[name])
    if not is_full:
        vace = {"vace_layers": [0, 1]} if "vace_layers" in config else {}
        config |= TRANSFORMER | vace | {"text_dim": TEXT_DIM}
    return config


def random_weights(make: Callable[[], Any], dtype: torch.dtype) -> Any:
    """Make a module in `dtype` with weights that keep activations near 1: matrices by their fan-in, vectors of norms 1, biases 0.

    The module is made without storage first: the public sizes do not fit into memory twice.
    """
    with torch.device("meta"):
        module = make().to(dtype)
    stored, parameters = set(module.state_dict()), {name for name, _ in module.named_parameters(remove_duplicate=False)}
    assert stored <= parameters, "a stored buffer would hold no numbers"
    module = module.to_empty(device="cpu")
    if hasattr(module, "tie_weights"):
        module.tie_weights()  # storage of its own has untied what is one table
    draws = torch.Generator().manual_seed(0)
    pool = torch.randn(1 << 22, generator=draws)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() > 1:
                flat, scale = weight.view(-1), 1.0 / math.sqrt(weight[0].numel())
                for start in range(0, flat.numel(), pool.numel()):
                    part = flat[start : start + pool.numel()]
                    turned = pool.roll(int(torch.randint(pool.numel(), (1,), generator=draws)))
                    part.copy_(turned[: part.numel()] * scale)
            else:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
    return module.eval()


def _link(source: str, target: str) -> None:
    """Link instead of copying 11 GB."""
    Path(target).hardlink_to(source)

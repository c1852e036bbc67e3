"""What a sample costs: tokens, floating-point operations and memory, by arithmetic on the configuration alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from idgrpo.bases.contract import QUANTISED, BaseWeights, VideoSize
from idgrpo.bases.geometry import Geometry

GIB = 1024**3
TEXT_ENCODER_SIZE_BYTES = int(11.4e9)
VAE_SIZE_BYTES = int(0.51e9)
_WORKSPACE_ROWS = 24
"""Activations alive at the peak of a forward, in rows of the hidden width per token: an estimate, not a measurement."""
_DECODER_CHANNELS = 96
_DECODER_TENSORS = 12
"""Full-size tensors alive in the decoder, its caches of earlier frames included: an estimate, not a measurement."""
_ENCODER_TENSORS = 10
"""The same for the encoder; a whole command at 832x480x81 peaked 5.6 to 6.0 GiB above its text encoder and weights."""
DEFAULT_BATCH_SIZE = 4
"""Clips made together where nothing is known about memory (a CPU)."""
MAX_BATCH_SIZE = 8
"""A larger batch is hardly faster, and a kill loses all of it."""
_SHARE_OF_FREE = 0.9
"""Of free memory what a batch may take; the rest is for what the estimate does not see."""


def transformer_flop(config: Mapping[str, Any], num_tokens: int, text_length: int) -> int:
    """Count the floating-point operations of one forward of one sample; a multiply-add is two.

    Per block of width d with feed-forward f, N tokens and L text tokens: projections of self-attention 8 N d^2, its
    products 4 N^2 d; of cross-attention 4 (N + L) d^2 and 4 N L d; feed-forward 4 N d f. VACE blocks add 2 N d^2 each
    for their output and once for the input. Embeddings and the output layer are counted, norms are not.
    """
    d = config["num_attention_heads"] * config["attention_head_dim"]
    n, length, f = num_tokens, text_length, config["ffn_dim"]
    block = 8 * n * d**2 + 4 * n**2 * d + 4 * (n + length) * d**2 + 4 * n * length * d + 4 * n * d * f
    patch = math.prod(config["patch_size"])
    total = config["num_layers"] * block
    total += 2 * n * d * patch * (config["in_channels"] + config["out_channels"])
    total += 2 * length * d * (config["text_dim"] + d)
    total += 2 * d * (config["freq_dim"] + d + 6 * d)
    num_vace = len(config.get("vace_layers") or [])
    if num_vace:
        total += num_vace * (block + 2 * n * d**2) + 2 * n * d**2
        total += 2 * n * d * patch * config["vace_in_channels"]
    return total


def attention_share(config: Mapping[str, Any], num_tokens: int, text_length: int) -> float:
    """Give the share of a forward's operations that the products of attention are, 4 N^2 d and 4 N L d a block."""
    d = config["num_attention_heads"] * config["attention_head_dim"]
    blocks = config["num_layers"] + len(config.get("vace_layers") or [])
    products = blocks * 4 * num_tokens * (num_tokens + text_length) * d
    return products / transformer_flop(config, num_tokens, text_length)


def transformer_parameters(config: Mapping[str, Any]) -> int:
    """Count the parameters of a Wan or VACE transformer."""
    d = config["num_attention_heads"] * config["attention_head_dim"]
    patch = math.prod(config["patch_size"])
    attention = 4 * (d * d + d) + 2 * d
    block = 2 * attention + 2 * d * config["ffn_dim"] + config["ffn_dim"] + d + 6 * d
    block += 2 * d if config["cross_attn_norm"] else 0
    total = config["num_layers"] * block
    total += d * config["in_channels"] * patch + d + (d + 1) * config["out_channels"] * patch + 2 * d
    total += (config["text_dim"] + 1) * d + (d + 1) * d
    total += (config["freq_dim"] + 1) * d + (d + 1) * d + (d + 1) * 6 * d
    num_vace = len(config.get("vace_layers") or [])
    if num_vace:
        total += num_vace * (block + d * d + d) + d * d + d + d * config["vace_in_channels"] * patch + d
    return total


_BYTES_OF_QUANTISED = {"int8": (1.0, 5), "fp8": (1.0, 4), "nf4": (0.5 + 4 / 64, 0)}
"""Bytes of a quantised weight, and of each row: a float32 scale and an int8 zero point; nf4: a float32 scale for 64 weights."""


def transformer_bytes(config: Mapping[str, Any], bytes_per_weight: int, base_weights: BaseWeights | None = None) -> int:
    """Count the bytes of a transformer's weights as they are kept.

    bytes_per_weight: of what is not quantised; bf16 and float32 of `base_weights` replace it. int8, fp8 and nf4 quantise all
    linear layers but those of the time embedding, which diffusers keeps in float32.
    """
    bytes_per_weight = {"bf16": 2, "float32": 4}.get(base_weights or "", bytes_per_weight)
    total = transformer_parameters(config)
    if base_weights not in QUANTISED:
        return total * bytes_per_weight
    d, f = config["num_attention_heads"] * config["attention_head_dim"], config["ffn_dim"]
    num_vace = len(config.get("vace_layers") or [])
    num_blocks, out = config["num_layers"] + num_vace, config["out_channels"] * math.prod(config["patch_size"])
    num_outputs = num_vace + (num_vace > 0)  # of each control block, and the first one's input
    weights = num_blocks * (8 * d * d + 2 * d * f) + num_outputs * d * d
    weights += config["text_dim"] * d + d * d + 6 * d * d + d * out
    rows = num_blocks * (9 * d + f) + num_outputs * d + 2 * d + 6 * d + out
    each, of_row = _BYTES_OF_QUANTISED[base_weights]
    return round(weights * each) + rows * of_row + (total - weights) * bytes_per_weight


def activation_bytes(config: Mapping[str, Any], num_tokens: int, num_branches: int, bytes_per_value: int) -> int:
    """Estimate what a forward of one sample with all its guidance branches keeps alive, without graph."""
    d = config["num_attention_heads"] * config["attention_head_dim"]
    return num_branches * num_tokens * (_WORKSPACE_ROWS * d + 2 * config["ffn_dim"]) * bytes_per_value


def decoder_bytes(geometry: Geometry, size: VideoSize, bytes_per_value: int) -> int:
    """Estimate what the decoder keeps alive: it works on one clip and one latent frame at a time, widest at full size."""
    return _DECODER_TENSORS * geometry.temporal * size.width * size.height * _DECODER_CHANNELS * bytes_per_value


def encoder_bytes(geometry: Geometry, size: VideoSize, bytes_per_value: int) -> int:
    """Estimate what the VAE's encoder keeps alive at a clip of a size."""
    return decoder_bytes(geometry, size, bytes_per_value) * _ENCODER_TENSORS // _DECODER_TENSORS


def batch_that_fits(
    free_bytes: int | None,
    config: Mapping[str, Any],
    geometry: Geometry,
    size: VideoSize,
    *,
    num_references: int,
    num_branches: int,
    bytes_per_value: int,
) -> int:
    """Give how many clips of a size denoise together in the free memory of a device; None (a CPU) is DEFAULT_BATCH_SIZE.

    At least 1: whether one fits is for `--dry-run` to say beforehand.
    """
    if free_bytes is None:
        return DEFAULT_BATCH_SIZE
    tokens = geometry.num_tokens(size, num_references)
    fits = int(_SHARE_OF_FREE * free_bytes) // activation_bytes(config, tokens, num_branches, bytes_per_value)
    return max(1, min(MAX_BATCH_SIZE, fits))


def must_tile(free_bytes: int | None, geometry: Geometry, size: VideoSize, bytes_per_value: int) -> bool:
    """Tell whether a clip of a size has to be decoded in tiles in the free memory of a device; None (a CPU): no."""
    return free_bytes is not None and decoder_bytes(geometry, size, bytes_per_value) > _SHARE_OF_FREE * free_bytes


def free_device_bytes(device: Any) -> int | None:
    """Give what a tensor may still take on a GPU, torch's own reserve included; None on a CPU."""
    import torch

    chosen = torch.device(device)
    if chosen.type != "cuda" or not torch.cuda.is_available():
        return None
    reserved = torch.cuda.memory_reserved(chosen) - torch.cuda.memory_allocated(chosen)
    return torch.cuda.mem_get_info(chosen)[0] + reserved


def condition_size_bytes(
    transformer: Mapping[str, Any], vae: Mapping[str, Any], size: VideoSize, num_references: int, text_length: int = 512
) -> int:
    """Give the most that one case's encodings take on the disk: float32 photos, bfloat16 text without its padding."""
    _, height, width = Geometry.of(vae, transformer).latent_size(size)
    return 4 * vae["z_dim"] * height * width * num_references + 2 * text_length * transformer["text_dim"]


_SHARE_OF_H264 = 0.1


def clip_size_bytes(size: VideoSize, *, lossless: bool) -> int:
    """Estimate the file of a clip, on the safe side: its raw pixels when lossless, a tenth of them in H.264."""
    raw = 3 * size.width * size.height * size.frames
    return raw if lossless else math.ceil(raw * _SHARE_OF_H264)


@dataclass(frozen=True)
class Cost:
    """Figures of one sample; memory is an estimate for sampling with one batch."""

    num_tokens: int
    num_branches: int
    num_steps: int
    batch_size: int
    forward_tflop: float
    sample_tflop: float
    transformer_gib: float
    memory_gib: float


def sampling_cost(
    config: Mapping[str, Any],
    geometry: Geometry,
    size: VideoSize,
    *,
    num_references: int,
    num_branches: int,
    num_steps: int,
    text_length: int,
    batch_size: int | None,
    bytes_per_weight: int,
    base_weights: BaseWeights | None = None,
    memory_bytes: int | None = None,
    vae_bytes_per_value: int = 4,
    text_encoder_bytes: int = TEXT_ENCODER_SIZE_BYTES,
    vae_bytes: int = VAE_SIZE_BYTES,
) -> Cost:
    """Estimate a sample: operations of the transformer (the decoder is not counted) and peak memory.

    Memory = VAE + what is largest: the text encoder while the VAE's encoder is at work, or the transformer with one batch of all
    branches or the decoder's widest frame. The text encoder has left before the transformer is read.
    batch_size None: what fits into the device's `memory_bytes` beside the weights.
    """
    tokens = geometry.num_tokens(size, num_references)
    forward = transformer_flop(config, tokens, text_length)
    weights = transformer_bytes(config, bytes_per_weight, base_weights)
    vae_bytes = vae_bytes * vae_bytes_per_value // 4
    free_bytes = None if memory_bytes is None else max(0, memory_bytes - weights - vae_bytes)
    batch_size = batch_size or batch_that_fits(
        free_bytes,
        config,
        geometry,
        size,
        num_references=num_references,
        num_branches=num_branches,
        bytes_per_value=bytes_per_weight,
    )
    activations = batch_size * activation_bytes(config, tokens, num_branches, bytes_per_weight)
    decoder = decoder_bytes(geometry, size, vae_bytes_per_value)
    encoding = text_encoder_bytes + encoder_bytes(geometry, size, vae_bytes_per_value)
    denoising = weights + max(activations, decoder)
    return Cost(
        num_tokens=tokens,
        num_branches=num_branches,
        num_steps=num_steps,
        batch_size=batch_size,
        forward_tflop=forward / 1e12,
        sample_tflop=forward * num_branches * num_steps / 1e12,
        transformer_gib=weights / GIB,
        memory_gib=(vae_bytes + max(encoding, denoising)) / GIB,
    )

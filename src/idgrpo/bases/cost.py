"""What a sample costs: tokens, floating-point operations and memory, by arithmetic on the configuration alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from idgrpo.bases.contract import VideoSize
from idgrpo.bases.geometry import Geometry

GIB = 1024**3
TEXT_ENCODER_SIZE_BYTES = int(11.4e9)
VAE_SIZE_BYTES = int(0.51e9)
_WORKSPACE_ROWS = 24
"""Activations alive at the peak of a forward, in rows of the hidden width per token: an estimate, not a measurement."""
_DECODER_CHANNELS = 96
_DECODER_TENSORS = 12
"""Full-size tensors alive in the decoder, its caches of earlier frames included: an estimate, not a measurement."""


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
    batch_size: int,
    bytes_per_weight: int,
    text_encoder_bytes: int = TEXT_ENCODER_SIZE_BYTES,
    vae_bytes: int = VAE_SIZE_BYTES,
) -> Cost:
    """Estimate a sample: operations of the transformer (the decoder is not counted) and peak memory.

    Memory = transformer and VAE + what is largest: the text encoder, one batch of all branches in the transformer, or the
    decoder's widest frame. They never meet: the text encoder has left before the first step.
    """
    tokens = geometry.num_tokens(size, num_references)
    forward = transformer_flop(config, tokens, text_length)
    weights = transformer_parameters(config) * bytes_per_weight
    d = config["num_attention_heads"] * config["attention_head_dim"]
    activations = batch_size * num_branches * tokens * (_WORKSPACE_ROWS * d + 2 * config["ffn_dim"]) * bytes_per_weight
    # The decoder works on one clip and one latent frame at a time, in float32, widest at full size.
    widest = geometry.temporal * size.width * size.height * _DECODER_CHANNELS * 4
    decoder = _DECODER_TENSORS * widest
    return Cost(
        num_tokens=tokens,
        num_branches=num_branches,
        num_steps=num_steps,
        forward_tflop=forward / 1e12,
        sample_tflop=forward * num_branches * num_steps / 1e12,
        transformer_gib=weights / GIB,
        memory_gib=(weights + vae_bytes + max(text_encoder_bytes, activations, decoder)) / GIB,
    )

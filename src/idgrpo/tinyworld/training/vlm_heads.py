"""Attention heads that begin by looking back: positions alone point at the same column, one frame earlier.

Following people means reading where somebody stood a frame ago. A head that has to find the place by itself is rewarded only
once it also reads the right thing there; one that starts at the place has only to learn what to read.
"""

import math

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLTextModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLAttention, Qwen2_5_VLRotaryEmbedding

from idgrpo.tinyworld.training.vlm_files import SECOND_PER_GRID, TOKENS_PER_SECOND

BACK, COLUMN = 2.0, 6.0  # logits per frequency of the time axis, and of the width axis
LAYER = 1


@torch.no_grad()
def look_back(language_model: Qwen2_5_VLTextModel) -> None:
    """Let the last two heads of the second layer start at the frame before: one in its own column, one anywhere.

    Queries and keys of rotary attention at places m and n whose biases alone count give s cos(w (m - n) - phi) for each
    frequency w; with phi = w d that is largest at n = m - d.
    """
    rotary, attention = language_model.rotary_emb, language_model.layers[LAYER].self_attn
    heads = language_model.config.num_attention_heads
    _point(attention, rotary, heads - 2, {"t": BACK, "w": COLUMN})
    _point(attention, rotary, heads - 1, {"t": BACK})


def _point(
    attention: Qwen2_5_VLAttention, rotary: Qwen2_5_VLRotaryEmbedding, head: int, logits: dict[str, float]
) -> None:
    dim, frequencies = attention.head_dim, rotary.inv_freq.tolist()
    axes = [axis for axis, count in zip("thw", rotary.mrope_section, strict=True) for _ in range(count)]
    first, half = head * dim, dim // 2
    for pair, (axis, frequency) in enumerate(zip(axes, frequencies, strict=True)):
        if axis not in logits:
            continue
        rows = [first + pair, first + half + pair]
        angle = frequency * TOKENS_PER_SECOND * SECOND_PER_GRID if axis == "t" else 0.0
        length = math.sqrt(logits[axis] * math.sqrt(dim))
        _set(attention.k_proj, rows, length, 0.0)
        _set(attention.q_proj, rows, length, angle)


def _set(projection: nn.Linear, rows: list[int], length: float, angle: float) -> None:
    projection.weight[rows] = 0
    projection.bias[rows] = length * Tensor([math.cos(angle), -math.sin(angle)])

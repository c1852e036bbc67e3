"""Batched attention for the vision tower: equal segments go through one call instead of transformers' Python loop."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)


class BatchedVisionAttention(Qwen2_5_VLVisionAttention):
    """Same weights and numbers as its parent; one scaled-dot-product call when all segments have one length."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: object,
    ) -> Tensor:
        """Attend inside segments; "token width" in and out. Falls back to the parent for unequal segments."""
        lengths = cu_seqlens[1:] - cu_seqlens[:-1]
        length = int(lengths[0])
        if self.config._attn_implementation != "sdpa" or bool((lengths != length).any()):
            return super().forward(hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs)
        num_tokens = hidden_states.shape[0]
        query, key, value = self.qkv(hidden_states).reshape(num_tokens, 3, self.num_heads, -1).unbind(1)
        assert position_embeddings is not None  # the tower always gives them
        cos, sin = position_embeddings
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        query, key, value = (
            x.reshape(num_tokens // length, length, self.num_heads, -1).transpose(1, 2) for x in (query, key, value)
        )
        out = functional.scaled_dot_product_attention(query, key, value, scale=self.scaling)
        return self.proj(out.transpose(1, 2).reshape(num_tokens, -1))


class BatchedVisionTower(Qwen2_5_VisionTransformerPretrainedModel):
    """Same weights and numbers as its parent; clips of one frame size are announced as one long clip.

    Every temporal row is its own attention segment in Qwen2.5-VL, so n clips of t rows equal one clip of n * t rows;
    the per-clip Python loops over windows and positions then run once.
    """

    def forward(self, hidden_states: Tensor, grid_thw: Tensor, **kwargs: object):
        """Encode patch rows; see the parent."""
        if len(grid_thw) > 1 and bool((grid_thw[:, 1:] == grid_thw[:1, 1:]).all()):
            grid_thw = torch.cat([grid_thw[:, :1].sum(0, keepdim=True), grid_thw[:1, 1:]], dim=1)
        return super().forward(hidden_states, grid_thw, **kwargs)


def batch_vision(model: nn.Module) -> int:
    """Switch the Qwen2.5-VL vision modules inside `model` to the batched forms; return how many were switched.

    Only the class changes: parameters, names and state dict stay. Other architectures are left as they are.
    """
    num_switched = 0
    for module in model.modules():
        if type(module) is Qwen2_5_VLVisionAttention:
            module.__class__ = BatchedVisionAttention
            num_switched += 1
        elif type(module) is Qwen2_5_VisionTransformerPretrainedModel:
            module.__class__ = BatchedVisionTower
    return num_switched

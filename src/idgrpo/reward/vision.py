"""The vision tower, quickly: attention segments of one length in one call, and pictures that occur twice encoded once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)

from idgrpo.reward.pixels import Grid


class Segments(NamedTuple):
    """Attention segments sorted by length: the (length, tokens) of each group, and the way there and back."""

    groups: list[tuple[int, int]]
    there: Tensor | None  # None: they are sorted already
    back: Tensor | None


class BatchedVisionAttention(Qwen2_5_VLVisionAttention):
    """Same weights and numbers as its parent; one scaled-dot-product call for all segments of one length."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: object,
    ) -> Tensor:
        """Attend inside segments; "token width" in and out."""
        if self.config._attn_implementation != "sdpa":
            return super().forward(hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs)
        num_tokens = hidden_states.shape[0]
        query, key, value = self.qkv(hidden_states).reshape(num_tokens, 3, self.num_heads, -1).unbind(1)
        assert position_embeddings is not None  # the tower always gives them
        cos, sin = position_embeddings
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        groups, there, back = segments_of(cu_seqlens)
        if there is not None:
            query, key, value = query[there], key[there], value[there]
        sizes = [size for _, size in groups]
        pieces = [
            self._attend(length, *qkv)
            for (length, _), *qkv in zip(groups, query.split(sizes), key.split(sizes), value.split(sizes), strict=True)
        ]
        out = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        return self.proj((out if back is None else out[back]).reshape(num_tokens, -1))

    def _attend(self, length: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in (query, key, value))
        out = functional.scaled_dot_product_attention(query, key, value, scale=self.scaling)
        return out.transpose(1, 2).flatten(0, 1)


def segments_of(cu_seqlens: Tensor) -> Segments:
    """Sort the segments that cumulative lengths describe; remembered on the tensor, because each layer asks."""
    known: Segments | None = getattr(cu_seqlens, "segments", None)
    if known is None:
        ends = cu_seqlens.cpu()
        lengths = ends.diff()
        values, counts = lengths[lengths > 0].unique(return_counts=True)
        groups = [(length, length * count) for length, count in zip(values.tolist(), counts.tolist(), strict=True)]
        there = back = None
        if len(groups) > 1:
            order = lengths.repeat_interleave(lengths).argsort(stable=True)
            there, back = order.to(cu_seqlens.device), order.argsort().to(cu_seqlens.device)
        known = vars(cu_seqlens)["segments"] = Segments(groups, there, back)
    return known


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


Looks = dict[str, list[Tensor]]
"""What the language model reads of one picture: rows "token width" by name and layer."""
LOOKED_UP = ("pooler_output", "deepstack_features")


def look(backbone: Any, rows: Tensor, grids: Sequence[Grid]) -> list[Looks]:
    """Encode pictures; return for each what the language model will read of it, on the CPU.

    Args:
        rows: patch rows of all pictures, "patch value".
        grids: one per picture.
    """
    tower = backbone.visual
    device = next(tower.parameters()).device
    out = tower(rows.to(device, tower.dtype), grid_thw=torch.tensor(grids, device=device))
    lengths = [time * height * width // tower.spatial_merge_size**2 for time, height, width in grids]
    found: list[Looks] = [{} for _ in grids]
    for name in LOOKED_UP:
        value = getattr(out, name, None)
        for layer in [] if value is None else value if isinstance(value, list) else [value]:
            for picture, part in zip(found, layer.cpu().split(lengths), strict=True):
                picture.setdefault(name, []).append(part.clone())
    return found


@contextmanager
def looked_up(backbone: Any, *pictures: Sequence[Looks]) -> Iterator[None]:
    """Let the tower answer its next calls from what `look` found: the photos of a batch first, then its videos."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    tower = backbone.visual
    device = next(tower.parameters()).device
    calls = iter([some for some in pictures if some])  # without photos the tower is asked about videos alone

    def forward(*args: object, **kwargs: object) -> Any:
        parts = next(calls)
        joined = {
            name: [torch.cat([part[name][i] for part in parts]).to(device) for i in range(len(parts[0][name]))]
            for name in parts[0]
        }
        out = BaseModelOutputWithPooling(pooler_output=joined["pooler_output"][0])
        for name in joined.keys() - {"pooler_output"}:
            setattr(out, name, joined[name])
        return out

    tower.forward = forward
    try:
        yield
    finally:
        del tower.forward

"""The batched vision tower gives the numbers of transformers' own loop."""

import copy

import pytest
import torch
from transformers import AutoModel

from idgrpo.reward.vision import BatchedVisionAttention, batch_vision


@pytest.mark.parametrize("grids", [[[2, 8, 8], [1, 8, 8], [1, 8, 8]], [[2, 8, 8], [1, 6, 10]], [[1, 12, 8]] * 2])
def test_same_numbers_and_gradients(tiny_vlm, grids) -> None:
    stock = AutoModel.from_pretrained(tiny_vlm, attn_implementation="sdpa").visual
    fast = copy.deepcopy(stock)
    assert batch_vision(fast) == 2
    assert any(isinstance(module, BatchedVisionAttention) for module in fast.modules())
    assert fast.state_dict().keys() == stock.state_dict().keys()
    grid = torch.tensor(grids)
    pixels = torch.randn(int(grid.prod(-1).sum()), 3 * 2 * 16, generator=torch.Generator().manual_seed(0))
    outputs = []
    for tower in (stock, fast):
        out = tower(pixels, grid).pooler_output
        out.square().sum().backward()
        outputs.append((out, tower.patch_embed.proj.weight.grad, tower.blocks[0].attn.qkv.weight.grad))
    for theirs, ours in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)

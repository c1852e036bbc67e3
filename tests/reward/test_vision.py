"""The batched vision tower gives the numbers of transformers' own loop."""

import copy

import pytest
import torch
from transformers import AutoModel

from idgrpo.reward.vision import BatchedVisionAttention, batch_vision, segments_of


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


def test_windows_of_unequal_length_are_grouped(tiny_vlm, monkeypatch) -> None:
    tower = AutoModel.from_pretrained(tiny_vlm, attn_implementation="sdpa").visual
    batch_vision(tower)
    calls: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counting(query, *rest, **settings):
        calls.append(query.shape[-2])
        return attend(query, *rest, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    grid = torch.tensor([[2, 10, 14], [1, 6, 10]])  # windows of 16, 8 and 4 tokens
    with torch.no_grad():
        tower(torch.randn(int(grid.prod(-1).sum()), 3 * 2 * 16), grid)
    assert sorted(calls) == [4, 8, 16, 60, 140]  # one call a length; there were 33 segments


def test_segments_there_and_back() -> None:
    cumulative = torch.tensor([0, 4, 4, 6, 10, 12], dtype=torch.int32)  # an empty segment is none
    groups, there, back = segments_of(cumulative)
    assert groups == [(2, 4), (4, 8)]
    assert there.tolist() == [4, 5, 10, 11, 0, 1, 2, 3, 6, 7, 8, 9]
    assert there[back].tolist() == list(range(12))
    assert segments_of(cumulative)[1] is there
    assert segments_of(torch.tensor([0, 3, 6])) == ([(3, 6)], None, None)

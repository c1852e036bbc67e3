"""Token types and three-axis positions of one input text, as transformers' Qwen2.5-VL computes them, without its loops."""

from dataclasses import dataclass

import torch
from torch import Tensor

TEXT, IMAGE, VIDEO = 0, 1, 2
Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Layout:
    """Expanded tokens of one sample: ids [s], types [s] (0 text, 1 image, 2 video), positions [3, s]."""

    ids: Tensor
    types: Tensor
    positions: Tensor


def layout(
    ids: tuple[int, ...],
    kinds: dict[int, int],
    image_grids: tuple[Grid, ...],
    video_grids: tuple[Grid, ...],
    merge_size: int,
    time_step: float,
) -> Layout:
    """Expand pad tokens to one token per merged patch and give every token its (time, height, width) position.

    Text advances all three axes by one. A picture block starts at p and lies at p + (int(k * time_step), row, column)
    (time_step 0 rows apart for images, which have one row in time); the next text starts at
    p + max(rows, columns), *not* after the last time position: the rule of Qwen2.5-VL's `get_rope_index`. Qwen3-VL
    follows it too, with one block per temporal row.

    Args:
        ids: token ids with one pad token per image or video block.
        kinds: pad token id -> IMAGE or VIDEO.
        image_grids, video_grids: (time, height, width) in patches, in order of appearance.
        time_step: tokens_per_second * seconds between two temporal rows.
    """
    grids = {IMAGE: iter(image_grids), VIDEO: iter(video_grids)}
    out_ids: list[Tensor] = []
    types: list[Tensor] = []
    positions: list[Tensor] = []
    position, start = 0, 0
    token_ids = torch.tensor(ids, dtype=torch.long)

    def text(end: int) -> None:
        nonlocal position
        if end > start:
            length = end - start
            out_ids.append(token_ids[start:end])
            types.append(torch.zeros(length, dtype=torch.int32))
            positions.append(torch.arange(position, position + length).expand(3, -1))
            position += length

    for index, token in enumerate(ids):
        kind = kinds.get(token, TEXT)
        if kind == TEXT:
            continue
        text(index)
        time, height, width = next(grids[kind])
        rows, columns = height // merge_size, width // merge_size
        length = time * rows * columns
        steps = (torch.arange(time) * (time_step if kind == VIDEO else 1)).long()
        axes = torch.meshgrid(steps, torch.arange(rows), torch.arange(columns), indexing="ij")
        out_ids.append(token_ids.new_full((length,), token))
        types.append(torch.full((length,), kind, dtype=torch.int32))
        positions.append(torch.stack(axes).reshape(3, -1) + position)
        position += max(rows, columns)
        start = index + 1
    text(len(ids))
    return Layout(torch.cat(out_ids), torch.cat(types), torch.cat(positions, dim=1))

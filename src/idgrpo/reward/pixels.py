"""Turn frames into the patch rows that a Qwen-VL vision tower reads, and give every token its place, without transformers' loops."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from idgrpo.errors import DataError
from idgrpo.reward.preprocess import Preprocessing

TEXT, IMAGE, VIDEO = 0, 1, 2
Grid = tuple[int, int, int]


def fitted_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return height and width in px, multiples of `factor`, within the pixel limits, aspect nearly kept.

    The rule is `smart_resize` of the Qwen2-VL image processor, banker's rounding included.
    """
    if min(height, width) < 1:
        raise DataError(f"an image of {width}x{height} px has no pixels")
    if max(height, width) / min(height, width) > 200:
        raise DataError(f"an image of {width}x{height} px is too long and thin (limit 200:1)")
    fitted_h, fitted_w = round(height / factor) * factor, round(width / factor) * factor
    if fitted_h * fitted_w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        fitted_h = max(factor, math.floor(height / shrink / factor) * factor)
        fitted_w = max(factor, math.floor(width / shrink / factor) * factor)
    elif fitted_h * fitted_w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        fitted_h = math.ceil(height * grow / factor) * factor
        fitted_w = math.ceil(width * grow / factor) * factor
    return fitted_h, fitted_w


def patch_rows(frames: Tensor, settings: Preprocessing) -> tuple[Tensor, Grid]:
    """Resize, normalise and cut equal-sized clips into patch rows.

    Args:
        frames: uint8 "batch frame channel height width" (an image is a clip of one frame).

    Returns:
        float32 rows "batch patch value" (the order of the Qwen2-VL processors: merge blocks, then channel, time,
        height, width inside a patch) and the grid (time, height, width) in patches, the same for each clip.
    """
    batch, _, channel, height, width = frames.shape
    patch, merge, depth = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    fit_h, fit_w = fitted_size(height, width, settings.factor, settings.min_pixels, settings.max_pixels)
    if (fit_h, fit_w) != (height, width):
        frames = transforms.resize(frames, [fit_h, fit_w], interpolation=InterpolationMode.BICUBIC, antialias=True)
    mean = torch.tensor(settings.image_mean, device=frames.device) * 255.0
    std = torch.tensor(settings.image_std, device=frames.device) * 255.0
    pixels = (frames.to(torch.float32) - mean[:, None, None]) / std[:, None, None]
    if missing := -pixels.shape[1] % depth:
        pixels = torch.cat([pixels, pixels[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
    grid = (pixels.shape[1] // depth, fit_h // patch, fit_w // patch)
    blocks = pixels.reshape(
        batch, grid[0], depth, channel, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch
    )
    rows = blocks.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return rows.reshape(batch, grid[0] * grid[1] * grid[2], channel * depth * patch * patch), grid


def grid_of(frames: int, height: int, width: int, settings: Preprocessing) -> Grid:
    """Return the grid that a clip of this size in px is cut into, without cutting it; DataError where none fits."""
    fit_h, fit_w = fitted_size(height, width, settings.factor, settings.min_pixels, settings.max_pixels)
    return -(-frames // settings.temporal_patch_size), fit_h // settings.patch_size, fit_w // settings.patch_size


def ragged_patch_rows(clips: Sequence[Tensor], settings: Preprocessing) -> tuple[Tensor, list[Grid]]:
    """Cut clips of any sizes, one batched pass per size; return all rows in clip order and one grid per clip."""
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        by_shape[clip.shape].append(index)
    if len(by_shape) == 1:
        rows, grid = patch_rows(torch.stack(list(clips)), settings)
        return rows.flatten(0, 1), [grid] * len(clips)
    pieces: list[Tensor | None] = [None] * len(clips)
    grids: list[Grid] = [(0, 0, 0)] * len(clips)
    for members in by_shape.values():
        rows, grid = patch_rows(torch.stack([clips[i] for i in members]), settings)
        for piece, index in zip(rows, members, strict=True):
            pieces[index], grids[index] = piece, grid
    return torch.cat([piece for piece in pieces if piece is not None]), grids


@dataclass(frozen=True)
class Layout:
    """Expanded tokens of one clip and its photos: ids [s], types [s] (0 text, 1 image, 2 video), positions [3, s]."""

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

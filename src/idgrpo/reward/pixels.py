"""Turn frames into the patch rows that a Qwen2.5-VL vision tower reads: batched tensor arithmetic, no per-image loop."""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from idgrpo.errors import DataError
from idgrpo.reward.preprocess import Preprocessing


def fitted_size(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return height and width in px, multiples of `factor`, within the pixel limits, aspect nearly kept.

    The rule is `smart_resize` of the Qwen2-VL image processor, banker's rounding included.
    """
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


def patch_rows(frames: Tensor, settings: Preprocessing) -> tuple[Tensor, tuple[int, int, int]]:
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


def ragged_patch_rows(clips: Sequence[Tensor], settings: Preprocessing) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """Cut clips of any sizes, one batched pass per size; return all rows in clip order and one grid per clip."""
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        by_shape[clip.shape].append(index)
    if len(by_shape) == 1:
        rows, grid = patch_rows(torch.stack(list(clips)), settings)
        return rows.flatten(0, 1), [grid] * len(clips)
    pieces: list[Tensor | None] = [None] * len(clips)
    grids: list[tuple[int, int, int]] = [(0, 0, 0)] * len(clips)
    for members in by_shape.values():
        rows, grid = patch_rows(torch.stack([clips[i] for i in members]), settings)
        for piece, index in zip(rows, members, strict=True):
            pieces[index], grids[index] = piece, grid
    return torch.cat([piece for piece in pieces if piece is not None]), grids

"""Sharpness, ripple and saturation of a clip: cheap figures that reveal pictures over-cooked by a reward."""

import torch
import torch.nn.functional as F
from torch import Tensor

from idgrpo.evaluate.motion import luma

CHUNK_FRAMES = 16


def mean_sharpness(clip: Tensor) -> float:
    """Average the gradient magnitude of the brightness (Tenengrad), per pixel, over the clip; 0..1."""
    return float(torch.stack([_gradient(luma(part)).mean() for part in clip.split(CHUNK_FRAMES)]).mean())


def residual_ripple(clip: Tensor) -> float:
    """Average the fine residual (brightness minus its 3x3 mean) in the flattest quarter of the picture; 0..1.

    Natural flat places (sky, walls) have next to none; checkerboards and ripples of over-trained generators live there.
    """
    parts = []
    for part in clip.split(CHUNK_FRAMES):
        grey = luma(part)
        padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
        residual = (grey - F.avg_pool2d(padded, 3, 1)).abs().flatten(1)
        coarse = F.avg_pool2d(F.pad(grey, (2, 2, 2, 2), mode="replicate"), 5, 1)
        order = _gradient(coarse).flatten(1).argsort(1)[:, : max(1, grey[0].numel() // 4)]
        parts.append(residual.gather(1, order).mean())
    return float(torch.stack(parts).mean())


def mean_saturation(clip: Tensor) -> float:
    """Average (max - min) of the colour channels, 0..1; rises when a generator over-saturates."""
    parts = [(part.float().amax(1) - part.float().amin(1)).mean() / 255 for part in clip.split(CHUNK_FRAMES)]
    return float(torch.stack(parts).mean())


def _gradient(grey: Tensor) -> Tensor:
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return (across.square() + down.square()).sqrt()

"""Sharpness, ripple and saturation: cheap figures that reveal pictures over-cooked by a reward, so that identity is not
bought with them. And what there is to recognise in a face."""

from collections.abc import Sequence
from math import ceil, floor

import torch
import torch.nn.functional as F
from torch import Tensor

from idgrpo.evaluate.measure import measure
from idgrpo.evaluate.motion import luma
from idgrpo.evaluate.subject import Subject

CHUNK_FRAMES = 16
FACE_PX = 32
BLUR_PX = 5


@measure("Sharpness", "neutral", "picture")
def sharpness(subject: Subject) -> float:
    """Mean gradient magnitude of the brightness (Tenengrad). Should stay near the base: blur lowers it, artefacts
    raise it."""
    return subject.observation.figures["sharpness"]


@measure("Ripple", "lower", "picture")
def ripple(subject: Subject) -> float:
    """Fine texture in the flattest quarter of the picture, where nature has none; rises with the ripples and
    checkerboards of over-training."""
    return subject.observation.figures["ripple"]


@measure("Saturation", "neutral", "picture")
def saturation(subject: Subject) -> float:
    """Mean spread of the colour channels; rises when a generator over-saturates."""
    return subject.observation.figures["saturation"]


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


def _fine_steps(grey: Tensor) -> float:
    """Average what a vertical blur takes from the vertical steps of [1, 1, h, w] (Crete et al., The blur effect, SPIE 6492, 2007)."""
    soft = F.avg_pool2d(grey, (BLUR_PX, 1), 1, (BLUR_PX // 2, 0), count_include_pad=False)
    return float((grey.diff(dim=-2).abs() - soft.diff(dim=-2).abs()).clamp(min=0).mean())


def face_details(clip: Tensor, frame: Sequence[int], box: Sequence[tuple[float, float, float, float]]) -> list[float]:
    """Measure what there is to recognise in each box (left, top, right, bottom in pixels) of a clip uint8 [f, 3, h, w].

    Mean of the brightness steps between neighbours that a further blur of 5 pixels would take away, in the direction that has
    fewer of them: motion blurs one direction only. Each box is brought to at most 32 pixels of height so that size does not
    matter. Blur, darkness and low contrast lower it; a small average before keeps sensor noise from raising it. 0 for a box
    outside the frame.
    """
    values = []
    for number, (left, top, right, bottom) in zip(frame, box, strict=True):
        rows = slice(max(0, floor(top)), max(0, ceil(bottom)))
        columns = slice(max(0, floor(left)), max(0, ceil(right)))
        face = clip[int(number) : int(number) + 1, :, rows, columns]
        if min(face.shape[-2:]) < 3:
            values.append(0.0)
            continue
        grey = luma(face)
        scale = FACE_PX / grey.shape[-2]
        if scale < 1:
            grey = F.interpolate(grey, size=(FACE_PX, max(3, round(grey.shape[-1] * scale))), mode="area")
        grey = F.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)
        values.append(min(_fine_steps(grey), _fine_steps(grey.mT)))
    return values

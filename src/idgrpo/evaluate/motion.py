"""How much moves: optical flow without weights (Lucas-Kanade in a pyramid), its magnitude, never its sign.

RAFT needs a download; for *how much* moves in base and tuned clips of the same cases a classical flow is enough and the
same everywhere. Source: Lucas and Kanade 1981; pyramid after Bouguet 2000.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from idgrpo.evaluate.measure import measure
from idgrpo.evaluate.subject import Subject

MAX_HEIGHT_PX = 96
WINDOW_PX = 5
NUM_ITERATIONS = 3


@measure("Motion", "neutral", "picture")
def dynamic_degree(subject: Subject) -> float:
    """Mean magnitude of the optical flow, in frame heights per second: unsigned, so opposite motions do not cancel. 0
    for a still."""
    return subject.observation.figures["dynamic_degree"]


def luma(clip: Tensor) -> Tensor:
    """Give brightness 0..1, float32 [frame, 1, height, width] of a clip uint8 [frame, 3, height, width]."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=clip.device).view(1, 3, 1, 1)
    return (clip.float() * weights).sum(1, keepdim=True) / 255


def flow_magnitudes(clip: Tensor) -> Tensor:
    """Give how far each place moves to the next frame, in heights of the frame: float32 [frame - 1, y, x].

    Frames higher than 96 pixels are reduced first, so cost does not grow with resolution.
    """
    grey = luma(clip)
    height, width = grey.shape[-2:]
    if height > MAX_HEIGHT_PX:
        size = (MAX_HEIGHT_PX, max(8, round(width * MAX_HEIGHT_PX / height)))
        grey = F.interpolate(grey, size=size, mode="area")
    if len(grey) < 2:
        return torch.zeros(0, *grey.shape[-2:])
    flow = _pyramid_flow(grey[:-1], grey[1:])
    return flow.square().sum(1).sqrt() / grey.shape[-2]


def _pyramid_flow(first: Tensor, second: Tensor) -> Tensor:
    """Estimate flow in pixels (x, y) from coarse to fine: [pair, 2, y, x]."""
    levels = [(first, second)]
    while min(levels[-1][0].shape[-2:]) >= 16 and len(levels) < 4:
        here, there = levels[-1]
        levels.append((F.avg_pool2d(here, 2, ceil_mode=True), F.avg_pool2d(there, 2, ceil_mode=True)))
    flow = torch.zeros(len(first), 2, *levels[-1][0].shape[-2:])
    for here, there in reversed(levels):
        scale = here.shape[-1] / flow.shape[-1]
        flow = F.interpolate(flow, size=here.shape[-2:], mode="bilinear", align_corners=False) * scale
        for _ in range(NUM_ITERATIONS):
            flow = flow + _lucas_kanade(here, _warp(there, flow))
    return flow


def _warp(image: Tensor, flow: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    across = (x + flow[:, 0] + 0.5) * 2 / width - 1
    down = (y + flow[:, 1] + 0.5) * 2 / height - 1
    return F.grid_sample(image, torch.stack((across, down), -1), padding_mode="border", align_corners=False)


def _lucas_kanade(here: Tensor, there: Tensor) -> Tensor:
    """Solve the 2x2 system of each window; a small diagonal keeps flat places still. Steps are at most one pixel."""
    middle = F.pad((here + there) / 2, (1, 1, 1, 1), mode="replicate")
    right, down = (
        (middle[..., 1:-1, 2:] - middle[..., 1:-1, :-2]) / 2,
        (middle[..., 2:, 1:-1] - middle[..., :-2, 1:-1]) / 2,
    )
    change = there - here
    products = torch.cat((right * right, right * down, down * down, right * change, down * change), 1)
    xx, xy, yy, xt, yt = F.avg_pool2d(products, WINDOW_PX, 1, WINDOW_PX // 2, count_include_pad=False).unbind(1)
    xx, yy = xx + 1e-4, yy + 1e-4
    determinant = xx * yy - xy * xy
    step = torch.stack((xy * yt - yy * xt, xy * xt - xx * yt), 1) / determinant.unsqueeze(1)
    return step.clamp(-1, 1)

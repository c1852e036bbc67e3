"""The photos themselves in a video's place, at rest: the cheapest clip that is alike, and no video of these people."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def frozen_copy(video: Tensor, photos: Sequence[Tensor]) -> Tensor:
    """Return a clip of the video's size that shows the photos side by side and never moves."""
    frames, _, height, width = video.shape
    edges = [round(i * width / len(photos)) for i in range(len(photos) + 1)]
    frame = torch.full((3, height, width), 255, dtype=torch.uint8)
    for photo, left, right in zip(photos, edges, edges[1:], strict=False):
        scale = min(height / photo.shape[1], (right - left) / photo.shape[2])
        size = [max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[2] * scale))]
        small = functional.interpolate(photo[None].float(), size=size, mode="bilinear", antialias=True)[0]
        top = height - size[0]
        middle = left + (right - left - size[1]) // 2
        frame[:, top:, middle : middle + size[1]] = small.round().clamp(0, 255).to(torch.uint8)
    return frame.expand(frames, -1, -1, -1).contiguous()

"""The small network behind `TinyFinder`: where people stand in a frame, and what each of them looks like."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idgrpo.tinyworld.people import NUM_CHOICES

WIDTH = 48
STRIDE = 2
#                        skin  hair c  shape shirt  pattern trousers size
WEIGHT = torch.tensor([0.15, 0.20, 0.15, 0.20, 0.12, 0.08, 0.10]).sqrt()


class Residual(nn.Module):
    """Two 3x3 convolutions with group norm around a skip."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class FinderNet(nn.Module):
    """Map frames [batch, 3, h, w] in 0..1 to per-cell predictions [batch, 1 + 2 + choices, h / 2, w / 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, WIDTH, 3, stride=STRIDE, padding=1)
        )
        self.body = nn.Sequential(*(Residual(WIDTH, dilation) for dilation in (1, 2, 4, 2)))
        self.head = nn.Sequential(nn.GroupNorm(8, WIDTH), nn.SiLU(), nn.Conv2d(WIDTH, 3 + sum(NUM_CHOICES), 1))

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.body(self.stem(frames * 2 - 1)))


def embedding(logits: Tensor) -> Tensor:
    """Turn attribute logits [..., 32] into an embedding [..., 32] of length up to 1.

    Each attribute gives (p - 1/K) / sqrt(1 - 1/K), the centred probabilities, so equal people have cosine 1 and people
    who share an attribute only by chance have an expected cosine of 0; unsure attributes weigh less.
    """
    parts = []
    for weight, choices, part in zip(WEIGHT, NUM_CHOICES, logits.split(NUM_CHOICES, -1), strict=True):
        parts.append(weight * (F.softmax(part, -1) - 1 / choices) / (1 - 1 / choices) ** 0.5)
    return torch.cat(parts, -1)

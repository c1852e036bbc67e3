"""A pool of rendered clips of training people, kept in memory as bytes, from which the training scripts draw."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.tinyworld.people import draw_people
from idgrpo.tinyworld.render import portraits, render
from idgrpo.tinyworld.scene import Scenes, draw_scenes


@dataclass(frozen=True)
class Pool:
    """Clips uint8 [num, frame, channel, height, width] and portraits uint8 [num, slot, channel, height, width]."""

    clips: Tensor
    portraits: Tensor


def to_bytes(pixels: Tensor) -> Tensor:
    """Quantise pixels in 0..1 to uint8."""
    return (pixels * 255).round().clamp(0, 255).byte()


def from_bytes(pixels: Tensor) -> Tensor:
    """Scale uint8 pixels to float32 in -1..1, as the autoencoder takes them."""
    return pixels.float() / 127.5 - 1


@torch.no_grad()
def make_pool(num: int, seed: int, cache: Path | None = None) -> Pool:
    """Render `num` clips (a multiple of 128) of training people; reuse the file `cache` when it is there."""
    if cache is not None and cache.exists():
        return Pool(**torch.load(cache, weights_only=True))
    generator = torch.Generator().manual_seed(seed)
    clips, faces = [], []
    for part in range(num // 128):
        scenes: Scenes = draw_scenes(generator, 128)
        codes = draw_people(generator, (128, scenes.num_people), held_out=False)
        clips.append(to_bytes(render(scenes, codes).pixels))
        faces.append(to_bytes(portraits(codes, generator if part % 2 else None)))
    pool = Pool(torch.cat(clips), torch.cat(faces))
    if cache is not None:
        torch.save(vars(pool), cache)
    return pool

"""Make a clip again from part of the way: noise it to a level, denoise it with the references given."""

import torch
from torch import Tensor

from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.contract import Base, VideoSize
from idgrpo.bases.generate import sample_latents
from idgrpo.bases.noise import draw_noise


@torch.no_grad()
def renoise(
    base: Base, clip: Tensor, references: list[Tensor], prompt: str, level: float, seed: int, *, sampler: SamplerConfig
) -> Tensor:
    """Noise a clip uint8 [frame, 3, height, width] to sigma `level` and denoise it: uint8 of the same shape.

    x = (1 - s) x0 + s noise, then the sampler's steps below s (SDEdit, arXiv 2108.01073, on the straight path). At a low
    level the clip decides what is seen, at a high one the references (uint8 [3, h, w]) do. The noise depends on `seed` alone.
    Raises UsageError when the base cannot make clips of this size, DataError for references it cannot take.
    """
    num_frames, _, height, width = clip.shape
    batch = base.collate([base.encode(prompt, references, VideoSize(width, height, num_frames))])
    name = ("renoise", seed)
    clean = base.encode_clips(clip[None].float() / 255.0, batch)
    noised = (1.0 - level) * clean + level * draw_noise(base, batch, [("noise", *name)])
    latents = sample_latents(base, batch, noised, sampler, [name], start=level)
    return (base.decode(latents, batch)[0] * 255.0).round().to(torch.uint8).cpu()

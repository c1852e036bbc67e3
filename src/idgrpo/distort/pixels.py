"""Pixel operations that distortions and controls share: composite, blur, resample, recompress, textures.

Clips are uint8 [frame, 3, height, width]; masks float32 0..1, [frame, height, width].
"""

import io

import numpy as np
import torch
from torch.nn.functional import conv2d, interpolate, max_pool2d, pad

WIDE_SIGMA_PX = 6.0


def extent(mask: torch.Tensor) -> tuple[slice, slice] | None:
    """Give the rows and columns of a mask [height, width] in which it is above 0; None when it is nowhere."""
    rows, columns = mask.amax(1).nonzero(), mask.amax(0).nonzero()
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def composite(clip: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mix `other` over `clip` by `mask`; where the mask is 0 the clip stays bit-equal.

    Frame by frame and only where the mask is: frames are large and what changes in them small.
    """
    result = clip.clone()
    for frame, layer in enumerate(mask):
        where = extent(layer)
        if where is not None:
            mixed = clip[frame][:, *where].float().lerp_(other[frame][:, *where].float(), layer[where])
            result[frame][:, *where] = mixed.round_().clamp_(0, 255)
    return result


def gaussian(images: torch.Tensor, sigma_px: float) -> torch.Tensor:
    """Blur float images [n, c, h, w] with a separable Gaussian; edges repeat. Wide ones work on a smaller picture."""
    if sigma_px <= 0:
        return images
    height, width = images.shape[-2:]
    if sigma_px > WIDE_SIGMA_PX:
        factor = int(sigma_px / 3)
        size = (-(-height // factor), -(-width // factor))
        small = gaussian(interpolate(images, size=size, mode="area"), sigma_px / factor)
        return interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    radius = max(1, int(np.ceil(3 * sigma_px)))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    n, c, h, w = images.shape
    flat = images.reshape(n * c, 1, h, w)
    flat = conv2d(pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    flat = conv2d(pad(flat, (0, 0, radius, radius), mode="replicate"), kernel.view(1, 1, -1, 1))
    return flat.reshape(n, c, h, w)


def blurred(clip: torch.Tensor, sigma_px: float) -> torch.Tensor:
    """Blur a clip, uint8 to uint8."""
    return gaussian(clip.float(), sigma_px).round().clamp(0, 255).to(torch.uint8)


def downscaled(clip: torch.Tensor, factor: float) -> torch.Tensor:
    """Shrink a clip by `factor` and enlarge it again."""
    height, width = clip.shape[-2:]
    size = (max(2, round(height / factor)), max(2, round(width / factor)))
    small = interpolate(clip.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
    large = interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    return large.round().clamp(0, 255).to(torch.uint8)


def recompressed(clip: torch.Tensor, quality: int) -> torch.Tensor:
    """Send each frame through JPEG at `quality` (1 worst to 95)."""
    from PIL import Image

    frames = []
    for frame in clip:
        buffer = io.BytesIO()
        Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(buffer, "JPEG", quality=quality)
        frames.append(np.array(Image.open(buffer).convert("RGB")))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


def ellipse(
    height: int, width: int, x: float, y: float, radius_x: float, radius_y: float, feather: float
) -> torch.Tensor:
    """Draw a soft ellipse float32 [height, width]: 1 inside, falling to 0 over `feather` (a share of the radius)."""
    rows = (torch.arange(height, dtype=torch.float32) + 0.5 - y) / max(radius_y, 0.5)
    columns = (torch.arange(width, dtype=torch.float32) + 0.5 - x) / max(radius_x, 0.5)
    distance = (rows[:, None] ** 2 + columns[None] ** 2).sqrt()
    return ((1 - distance) / max(feather, 1e-3)).clamp(0, 1)


def texture(height: int, width: int, rng: np.random.Generator) -> torch.Tensor:
    """Draw a smooth random texture in one hue, uint8 [3, height, width]: a plain object of the world, not noise."""
    base = rng.uniform(40, 215, size=3).astype(np.float32)
    coarse = rng.normal(0, 18, size=(1, 1, 4, 4)).astype(np.float32)
    relief = interpolate(torch.from_numpy(coarse), size=(height, width), mode="bicubic", align_corners=False)[0]
    return (torch.from_numpy(base)[:, None, None] + relief).round().clamp(0, 255).to(torch.uint8)


def behind(regions: torch.Tensor) -> torch.Tensor:
    """Mask what belongs to nobody, feathered away from people: regions [frame, slot, h, w] -> float32 [frame, h, w].

    Soft renderers leave traces of a person far away; below a fiftieth nobody sees them. In large frames the feather is drawn on a
    smaller picture; that no pixel of a person changes is kept to the pixel.
    """
    height, width = regions.shape[-2:]
    anybody = regions.amax(dim=1, keepdim=True) > 0.02
    margin = max(1, round(min(height, width) * 0.02))
    factor = max(1, min(height, width) // 128)
    near = max_pool2d(anybody.float(), factor, ceil_mode=True) if factor > 1 else anybody.float()
    reach = max(1, round(margin / factor))
    for window, padding in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))):
        near = max_pool2d(near, window, stride=1, padding=padding)
    soft = gaussian(1 - near, margin / factor / 2)
    if factor > 1:
        soft = interpolate(soft, size=(height, width), mode="bilinear", align_corners=False)
    return soft.masked_fill_(anybody, 0.0)[:, 0]

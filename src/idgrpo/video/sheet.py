"""Contact sheets: rows of pictures with a caption each."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP_PX = 4
CAPTION_PX = 16
MAX_FRAMES = 9


def contact_sheet(
    rows: Sequence[Sequence[Tensor]],
    captions: Sequence[str] | None = None,
    *,
    cell_height_px: int = 96,
    max_frames: int = MAX_FRAMES,
) -> Tensor:
    """Lay out rows of images uint8 [3, h, w] and clips uint8 [f, 3, h, w] (as frames side by side) on white.

    Small pictures are enlarged by repeating pixels, large ones reduced; returns uint8 [3, height, width].
    """
    strips = [torch.cat(_cells(row, cell_height_px, max_frames), dim=2) for row in rows]
    width = max(strip.shape[2] for strip in strips)
    lines: list[Tensor] = []
    for index, strip in enumerate(strips):
        if captions is not None:
            lines.append(_caption(captions[index], width))
        lines.append(F.pad(strip, (0, width - strip.shape[2], 0, GAP_PX), value=255))
    return torch.cat(lines, dim=1)


def _cells(row: Sequence[Tensor], height: int, max_frames: int) -> list[Tensor]:
    pictures: list[Tensor] = []
    for item in row:
        if item.dim() == 4:
            keep = torch.linspace(0, len(item) - 1, min(len(item), max_frames)).round().long()
            pictures += list(item[keep])
        else:
            pictures.append(item)
    return [F.pad(_scaled(picture, height), (0, GAP_PX), value=255) for picture in pictures]


def _scaled(picture: Tensor, height: int) -> Tensor:
    if picture.shape[1] <= height // 2:
        times = height // picture.shape[1]
        picture = picture.repeat_interleave(times, 1).repeat_interleave(times, 2)
        return F.pad(picture, (0, 0, 0, height - picture.shape[1]), value=255)
    width = max(1, round(picture.shape[2] * height / picture.shape[1]))
    scaled = F.interpolate(picture[None].float(), (height, width), mode="bilinear", antialias=True)
    return scaled[0].round().clamp(0, 255).byte()


@lru_cache(maxsize=1)
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(12)


def _caption(text: str, width: int) -> Tensor:
    image = Image.new("RGB", (width, CAPTION_PX), "white")
    ImageDraw.Draw(image).text((2, 1), text, fill=(40, 40, 40), font=_font())
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)

"""Contact sheets: rows of pictures with a caption each, or a table of them with titled columns and numbered portraits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP_PX = 4
CAPTION_PX = 16
MAX_FRAMES = 9
INK = (40, 40, 40)


@dataclass(frozen=True)
class SheetRow:
    """A row of a table of pictures: portraits (numbered from 1), then frames uint8 [3, h, w]; `heading` stands above it in full width."""

    portraits: Sequence[Tensor]
    frames: Sequence[Tensor]
    caption: str
    heading: str = ""


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
            lines.append(text_line(captions[index], width))
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
    return [F.pad(fitted(picture, height), (0, GAP_PX), value=255) for picture in pictures]


def fitted(picture: Tensor, height: int) -> Tensor:
    """Bring a picture uint8 [3, h, w] to a height; small ones are enlarged by repeating pixels."""
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


def text_line(text: str, width: int, bold: bool = False) -> Tensor:
    """Write a line of text uint8 [3, 16, width], cut with an ellipsis where it does not fit."""
    image = Image.new("RGB", (width, CAPTION_PX), "white")
    font = _font()
    while len(text) > 1 and font.getlength(text) > width - 4:
        text = text[:-2].rstrip() + "…"
    ImageDraw.Draw(image).text((2, 1), text, fill=INK, font=font, stroke_width=0.4 if bold else 0, stroke_fill=INK)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def titled_sheet(rows: Sequence[SheetRow], *, cell_height_px: int = 96) -> Tensor:
    """Lay out rows as a table: portraits stand under `person 1`, `person 2`, .., frames under `first`, .., `last`; uint8 [3, h, w]."""
    num_people = max(len(row.portraits) for row in rows)
    num_frames = max(len(row.frames) for row in rows)
    cells = [
        [numbered(fitted(p, cell_height_px), n) for n, p in enumerate(row.portraits, 1)]
        + [None] * (num_people - len(row.portraits))
        + [fitted(frame, cell_height_px) for frame in row.frames]
        + [None] * (num_frames - len(row.frames))
        for row in rows
    ]
    widths = [max((c.shape[2] for c in column if c is not None), default=1) for column in zip(*cells, strict=True)]
    titles = [f"person {n}" for n in range(1, num_people + 1)] + frame_titles(num_frames)
    total = sum(widths) + GAP_PX * len(widths)
    lines = [_titles(titles, widths)]
    for row, found in zip(rows, cells, strict=True):
        if row.heading:
            lines.append(text_line(row.heading, total, bold=True))
        lines.append(text_line(row.caption, total))
        padded = [
            F.pad(c, (0, width - c.shape[2] + GAP_PX, 0, GAP_PX), value=255)
            if c is not None
            else torch.full((3, cell_height_px + GAP_PX, width + GAP_PX), 255, dtype=torch.uint8)
            for c, width in zip(found, widths, strict=True)
        ]
        lines.append(torch.cat(padded, dim=2))
    return torch.cat(lines, dim=1)


def frame_titles(count: int) -> list[str]:
    """Name frames that are spread over a clip."""
    return ["first frame", *([""] * (count - 2)), "last frame"][:count] if count > 1 else ["frame"] * count


def numbered(picture: Tensor, number: int) -> Tensor:
    """Put a number on the corner of a picture uint8 [3, h, w]."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    draw, size = ImageDraw.Draw(image), 17
    draw.ellipse((2, 2, size, size), fill=(30, 80, 200))
    draw.text(((size + 2) / 2, (size + 2) / 2), str(number), fill="white", font=_font(), anchor="mm")
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def _titles(titles: Sequence[str], widths: Sequence[int]) -> Tensor:
    return torch.cat([text_line(title, width + GAP_PX) for title, width in zip(titles, widths, strict=True)], dim=2)

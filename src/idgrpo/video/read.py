"""Decode clips and pictures to tensors, as every stage sees them."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import Colorspace, Interpolation
from torch import Tensor

from idgrpo.errors import DataError
from idgrpo.video.gamut import to_srgb_primaries
from idgrpo.video.picture import read_picture
from idgrpo.video.stream import Shown, cut_short, open_video, shown

MAX_CLIP_BYTES = 16 * 2**30


def read_video(path: Path | str, *, indices: list[int] | None = None) -> Tensor:
    """Decode a clip to uint8 sRGB [frame, 3, height, width]; with `indices` only those frames, in that order.

    Frames are upright, with square pixels, at the constant rate that `probe` tells: a frame that stands still in a file
    of variable rate comes several times. Decodes linearly, which beats seeking for short clips. Errors: DataError naming
    the file.
    """
    path = Path(path)
    if indices is not None and not indices:
        raise DataError(f"{path}: no frames were asked for")
    facts = shown(path)
    ticks = facts.timeline.shown
    outside = [index for index in indices or () if not 0 <= index < len(ticks)]
    if outside:
        raise DataError(f"{path}: frame {outside[0]} was asked for, the video has {len(ticks)}")
    order = [ticks[index] for index in indices] if indices is not None else list(ticks)
    size_bytes = 3 * facts.width * facts.height * len(order)
    if size_bytes > MAX_CLIP_BYTES:
        raise DataError(
            f"{path}: {len(order)} frames of {facts.width}x{facts.height} px are {size_bytes / 2**30:.0f} GiB when decoded; "
            f"at most {MAX_CLIP_BYTES / 2**30:.0f} are read",
            fix="cut it into clips, or make it smaller",
        )
    frames = _decoded(path, facts, set(order))
    return torch.stack([frames[number] for number in order]).contiguous()


def _decoded(path: Path, facts: Shown, wanted: set[int]) -> dict[int, Tensor]:
    frames: dict[int, Tensor] = {}
    number = -1
    with open_video(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                frames[number] = _pixels(path, facts, number, frame)
            if len(frames) == len(wanted):
                return frames
    raise cut_short(path, number + 1, facts.stored_frames)


def _pixels(path: Path, facts: Shown, number: int, frame: av.VideoFrame) -> Tensor:
    if (frame.width, frame.height) != facts.stored_size:
        width, height = facts.stored_size
        raise DataError(
            f"{path}: frame {number} has {frame.width}x{frame.height} px, the first one {width}x{height}",
            fix="cut it where its size changes",
        )
    how: dict[str, Any] = {}
    if facts.scaled is not None:
        how |= {"width": facts.scaled[0], "height": facts.scaled[1], "interpolation": Interpolation.BICUBIC}
    if facts.matrix is not None:
        how["src_colorspace"] = Colorspace(facts.matrix)
    picture = facts.turn.applied(to_srgb_primaries(frame.to_ndarray(format="rgb24", **how), facts.primaries))
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)


def read_image(path: Path | str) -> Tensor:
    """Read a picture to uint8 sRGB [3, height, width], upright, transparency on white; limits and errors of `read_picture`."""
    image = read_picture(path).image
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous()

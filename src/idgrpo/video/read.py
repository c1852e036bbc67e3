"""Decode videos and images to tensors."""

from pathlib import Path

import av
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from idgrpo.errors import DataError


def read_video(path: Path | str, *, indices: list[int] | None = None) -> Tensor:
    """Decode a video to uint8 [frame, 3, height, width]; with `indices` only those frames, in that order.

    Decodes linearly, which beats seeking for short clips. Raises DataError naming the file.
    """
    path = Path(path)
    if indices is not None and not indices:
        raise DataError(f"{path}: no frames were asked for")
    wanted = None if indices is None else set(indices)
    frames: dict[int, Tensor] = {}
    number, declared = -1, 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: no video stream in it")
            declared = container.streams.video[0].frames
            for number, frame in enumerate(container.decode(video=0)):
                if wanted is None or number in wanted:
                    array = frame.to_ndarray(format="rgb24")
                    turns = round(getattr(frame, "rotation", 0) / 90) % 4
                    frames[number] = torch.from_numpy(array).rot90(turns, (0, 1)).permute(2, 0, 1)
                if wanted is not None and len(frames) == len(wanted):
                    break
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: not a readable video ({error})", fix="play it, or make it again") from None
    if number < 0:
        raise DataError(f"{path}: the video has no frames")
    complete = wanted is not None and len(frames) == len(wanted)
    if not complete and number + 1 < declared:
        raise DataError(
            f"{path}: the video is cut short: {number + 1} of {declared} frames can be read", fix="make it again"
        )
    order = sorted(frames) if indices is None else indices
    missing = [index for index in order if index not in frames]
    if missing:
        raise DataError(f"{path}: frame {missing[0]} was asked for, the video ends earlier")
    return torch.stack([frames[index] for index in order]).contiguous()


def read_image(path: Path | str) -> Tensor:
    """Read an image to uint8 [3, height, width]: upright by its EXIF tag, transparency on white."""
    path = Path(path)
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGBA")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from None
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image).convert("RGB")
    pixels = torch.frombuffer(bytearray(flat.tobytes()), dtype=torch.uint8)
    return pixels.view(flat.height, flat.width, 3).permute(2, 0, 1).contiguous()

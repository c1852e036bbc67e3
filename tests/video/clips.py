"""Make clips and pictures as cameras and editors make them, for tests of reading."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

CODECS = {
    ".webm": "libvpx-vp9",
    ".avi": "mpeg4",
    ".wmv": "wmv2",
    ".flv": "flv1",
    ".mpg": "mpeg2video",
    ".ogv": "libtheora",
}


def card(height: int = 64, width: int = 96) -> np.ndarray:
    """Draw a card uint8 [height, width, 3]: red left, green right, blue below, a grey ramp along the middle."""
    picture = np.full((height, width, 3), 120, np.uint8)
    picture[: height // 2, : width // 3] = (220, 40, 30)
    picture[: height // 2, -width // 3 :] = (40, 190, 60)
    picture[-height // 4 :] = (40, 60, 200)
    picture[height // 2 : height // 2 + height // 8] = np.linspace(0, 255, width).astype(np.uint8)[None, :, None]
    return picture


def moving(num: int = 9, height: int = 64, width: int = 96) -> torch.Tensor:
    """Let a bright square walk over the card: uint8 [frame, 3, height, width]; the square's column tells the frame."""
    frames = np.stack([card(height, width)] * num)
    for index in range(num):
        left = 4 + index * (width - 24) // max(1, num)
        frames[index, 8:20, left : left + 12] = 255
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()


def encode(
    path: Path, frames: torch.Tensor, *, times=None, unit=Fraction(1, 1600), pix_fmt="yuv420p", rate=16, **how
) -> Path:
    """Encode frames at times (in units; default even at `rate`); `how`: codec, options, tags, aspect, matrix, full, title."""
    codec = how.get("codec") or CODECS.get(path.suffix, "libx264")
    with av.open(str(path), "w", **({"format": how["format"]} if "format" in how else {})) as container:
        if "title" in how:
            container.metadata["title"] = how["title"]
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[3], frames.shape[2], pix_fmt
        context = stream.codec_context
        if times is not None:
            stream.time_base = context.time_base = unit
        if "aspect" in how:
            context.sample_aspect_ratio = how["aspect"]
        for name, value in how.get("tags", {}).items():
            setattr(context, name, value)
        if codec == "libx264":
            stream.options = {"crf": "6", **how.get("options", {})}
        elif codec == "libvpx-vp9":
            stream.options = {"crf": "10", "b": "0"}
        else:
            context.bit_rate = 4_000_000
        for index, picture in enumerate(frames.permute(0, 2, 3, 1).contiguous().numpy()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace=how.get("matrix"), dst_color_range=how.get("range"))
            frame.pts, frame.time_base = (times[index], unit) if times is not None else (index, Fraction(1, rate))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def display_matrix(path: Path, *values: int) -> Path:
    """Set the matrix (a, b, c, d) in the track header of an mp4, as phones do."""
    a, b, c, d = (value * 0x10000 for value in values)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: 4 flags, 20 times and id, 8 reserved, 8 layer and volume
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(bytes(data))
    return path

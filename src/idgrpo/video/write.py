"""Encode tensors to H.264 videos and PNG images; the same pixels give the same bytes."""

import math
import os
from fractions import Fraction
from pathlib import Path

import av
import torch
from PIL import Image
from torch import Tensor

from idgrpo.errors import UsageError

LOSSLESS: dict[str, object] = {"qp": "0", "preset": "ultrafast"}
# x264's macroblock tree reads memory beyond small frames: with it, the bytes of one clip's files differ by chance.
LOSSY: dict[str, object] = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}
MAX_RATE = 1000
# What the pixels are, by ITU-T H.273: sRGB's primaries and curve; swscale's matrix for YCbCr, BT.601, in limited range.
SRGB_PRIMARIES, SRGB_CURVE = 1, 13
RGB_MATRIX, BT601_MATRIX = 0, 6
LIMITED, FULL = 1, 2


def write_video(path: Path | str, frames: Tensor, fps: float = 16, *, lossless: bool = False) -> None:
    """Write uint8 [frame, 3, height, width] as mp4: yuv420p with fast start, or `libx264rgb` at qp 0 (bit-exact).

    The file says which colours it holds. Errors: UsageError naming the file, for frames or a rate that cannot be written.
    """
    path = Path(path)
    _check(path, frames, fps, lossless)
    height, width = frames.shape[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with av.open(str(draft), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=_as_fraction(fps))
            stream.width, stream.height = width, height
            stream.pix_fmt = "rgb24" if lossless else "yuv420p"
            stream.thread_count = 1
            stream.options = dict(LOSSLESS if lossless else LOSSY)
            context = stream.codec_context
            context.color_primaries, context.color_trc = SRGB_PRIMARIES, SRGB_CURVE
            context.colorspace, context.color_range = (RGB_MATRIX, FULL) if lossless else (BT601_MATRIX, LIMITED)
            for picture in frames.permute(0, 2, 3, 1).contiguous().numpy():
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame if lossless else frame.reformat(format="yuv420p")))
            container.mux(stream.encode())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _check(path: Path, frames: Tensor, fps: float, lossless: bool) -> None:
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[1] != 3 or not frames.numel():
        shape = f"{frames.dtype} {list(frames.shape)}"
        raise UsageError(f"{path}: a video must be uint8 [frame, 3, height, width], not {shape}")
    height, width = frames.shape[2:]
    if not lossless and (height % 2 or width % 2):
        raise UsageError(
            f"{path}: yuv420p needs even sides, not {width}x{height}; nearest: {width // 2 * 2}x{height // 2 * 2}"
        )
    if not (math.isfinite(fps) and 0 < _as_fraction(fps) <= MAX_RATE):
        raise UsageError(f"{path}: {fps} frames a second cannot be written; 0.001 to {MAX_RATE} can")


def _as_fraction(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1000)


def with_even_sides(frames: Tensor) -> Tensor:
    """Repeat the last row and column of uint8 [frame, 3, height, width] where a side is odd, which yuv420p cannot hold."""
    height, width = frames.shape[2:]
    if height % 2:
        frames = torch.cat([frames, frames[:, :, -1:]], dim=2)
    return torch.cat([frames, frames[..., -1:]], dim=3) if width % 2 else frames


def write_image(path: Path | str, image: Tensor) -> None:
    """Write uint8 [3, height, width] as PNG, which is sRGB where it does not say otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}.png")
    try:
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(draft, format="PNG")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)

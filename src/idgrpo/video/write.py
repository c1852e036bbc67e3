"""Encode tensors to H.264 videos and PNG images; the same pixels give the same bytes."""

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


def write_video(path: Path | str, frames: Tensor, fps: float = 16, *, lossless: bool = False) -> None:
    """Write uint8 [frame, 3, height, width] as mp4: yuv420p with fast start, or `libx264rgb` at qp 0 (bit-exact)."""
    path = Path(path)
    num_frames, channels, height, width = frames.shape
    if frames.dtype != torch.uint8 or channels != 3 or not num_frames:
        raise UsageError(f"a video must be uint8 [frame, 3, height, width], not {frames.dtype} {list(frames.shape)}")
    if not lossless and (height % 2 or width % 2):
        raise UsageError(f"yuv420p needs even sides, not {width}x{height}; nearest: {width // 2 * 2}x{height // 2 * 2}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with av.open(str(draft), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream(
                "libx264rgb" if lossless else "libx264", rate=Fraction(fps).limit_denominator(1000)
            )
            stream.width, stream.height = width, height
            stream.pix_fmt = "rgb24" if lossless else "yuv420p"
            stream.thread_count = 1
            stream.options = dict(LOSSLESS if lossless else LOSSY)
            for picture in frames.permute(0, 2, 3, 1).contiguous().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_image(path: Path | str, image: Tensor) -> None:
    """Write uint8 [3, height, width] as PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}.png")
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(draft, format="PNG")
    os.replace(draft, path)

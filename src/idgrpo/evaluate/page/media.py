"""Videos and pictures as data addresses that any browser plays, within a budget of bytes."""

import base64
import io
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from idgrpo.video.probe import probe
from idgrpo.video.read import read_image, read_video
from idgrpo.video.write import write_video

PORTRAIT_PX = 128


class Budget:
    """Count bytes that are put into the page; `take` refuses what no longer fits."""

    def __init__(self, max_bytes: int):
        self.left_bytes = max_bytes

    def take(self, num_bytes: int) -> bool:
        if num_bytes > self.left_bytes:
            return False
        self.left_bytes -= num_bytes
        return True


def fit_width(clip: torch.Tensor, width_px: int) -> torch.Tensor:
    """Bring a clip uint8 [f, 3, h, w] near a width: whole-number enlargement of small clips keeps their pixels crisp.

    Both sides come out even, as yuv420p needs.
    """
    height, width = clip.shape[-2:]
    if width <= width_px // 2:
        factor = width_px // width
        clip = clip.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        return clip[..., : clip.shape[-2] // 2 * 2, : clip.shape[-1] // 2 * 2]
    target = min(width, 2 * width_px) // 2 * 2
    size = (max(2, round(height * target / width / 2) * 2), target)
    if size == (height, width):
        return clip
    small = F.interpolate(clip.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    return small.round().clamp(0, 255).to(torch.uint8)


def video_bytes(path: str, width_px: int) -> bytes:
    """Encode a video for the page: H.264, yuv420p, faststart."""
    fps = probe(Path(path)).fps
    clip = fit_width(read_video(Path(path)), width_px)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "clip.mp4"
        write_video(target, clip, fps=fps)
        return target.read_bytes()


def trimmed(image: torch.Tensor) -> torch.Tensor:
    """Cut a plain margin (the colour of the corner) down to a small one, and keep the picture square: uint8 [3, side, side]."""
    height, width = image.shape[1:]
    drawn = (image.int() - image[:, :1, :1].int()).abs().amax(0) > 24
    if not drawn.any() or height != width:
        return image
    rows, columns = drawn.any(1).nonzero().flatten(), drawn.any(0).nonzero().flatten()
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    side = min(height, round(max(bottom - top, right - left) * 1.12) + 1)
    top = min(max(0, (top + bottom - side) // 2), height - side)
    left = min(max(0, (left + right - side) // 2), width - side)
    return image[:, top : top + side, left : left + side]


def portrait_bytes(path: str) -> bytes:
    """Encode a reference as PNG of at most 128 pixels; small ones stay as they are (the page enlarges without blur)."""
    from PIL import Image

    pixels = trimmed(read_image(Path(path)))
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    if max(image.size) > PORTRAIT_PX:
        image.thumbnail((PORTRAIT_PX, PORTRAIT_PX))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_address(content: bytes, kind: str) -> str:
    """Write bytes as a data address of a media type such as video/mp4."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

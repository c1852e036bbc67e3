"""Reference photos to model input: checks, and the two ways of fitting a photo into the frame."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from idgrpo.errors import DataError


def check_references(references: Sequence[Tensor], *, min_px: int, max_references: int) -> None:
    """Refuse what no base can use: no photo, too many, not an RGB image, smaller than min_px. Raises DataError."""
    if not references:
        raise DataError("a case needs at least one reference image", fix="add a photo of each person")
    if len(references) > max_references:
        raise DataError(
            f"{len(references)} reference images, at most {max_references} are possible",
            fix=f"keep the {max_references} most important people",
        )
    for number, image in enumerate(references, start=1):
        if image.ndim != 3 or image.shape[0] != 3:
            raise DataError(f"reference {number} has shape {tuple(image.shape)}, expected [3, height, width]")
        height, width = image.shape[1:]
        if min(height, width) < min_px:
            raise DataError(
                f"reference {number} is {width}x{height} px; its shorter side must have at least {min_px} px",
                fix="use a larger photo of this person",
            )


def as_uint8(image: Tensor) -> Tensor:
    """Give an image as uint8; floats are taken as 0..1."""
    if image.dtype == torch.uint8:
        return image.cpu()
    return (image.float().clamp(0, 1) * 255.0).round().to(torch.uint8).cpu()


def fit_vace(image: Tensor, height: int, width: int) -> Tensor:
    """Fit a photo into the frame as VACE does: bilinear, aspect kept, centred on white.

    uint8 [3, h, w] -> float32 [3, height, width] in -1..1.
    """
    pixels = as_uint8(image).float() / 255.0 * 2.0 - 1.0
    scale = min(height / pixels.shape[1], width / pixels.shape[2])
    new_height, new_width = max(1, int(pixels.shape[1] * scale)), max(1, int(pixels.shape[2] * scale))
    fitted = functional.interpolate(
        pixels.unsqueeze(0), size=(new_height, new_width), mode="bilinear", align_corners=False
    )
    canvas = torch.ones(3, height, width)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    canvas[:, top : top + new_height, left : left + new_width] = fitted[0]
    return canvas


def fit_phantom(image: Tensor, height: int, width: int) -> Tensor:
    """Fit a photo into the frame as Phantom does: Lanczos on 8 bits, aspect kept, centred on white (255).

    uint8 [3, h, w] -> float32 [3, height, width] in -1..1.
    """
    photo = Image.fromarray(as_uint8(image).permute(1, 2, 0).contiguous().numpy())
    ratio = photo.width / photo.height
    if ratio > width / height:
        new_width, new_height = width, max(1, int(width / ratio))
    else:
        new_width, new_height = max(1, int(height * ratio)), height
    fitted = photo.resize((new_width, new_height), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (width, height), (255, 255, 255))
    canvas.paste(fitted, ((width - new_width) // 2, (height - new_height) // 2))
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 127.5 - 1.0

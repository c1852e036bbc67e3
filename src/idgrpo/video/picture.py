"""Read a picture of any common kind as upright 8-bit sRGB. Without torch, so that servers may check pictures too.

Read are PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, JPEG 2000 and PPM, whatever the file's ending says. Of an animation or a
file of several pages the first picture counts. Deeper greyscale is scaled to 8 bits, colour profiles are converted to
sRGB, transparency goes on white.
"""

import io
import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import TiffImageFile

from idgrpo.errors import DataError, IdgrpoError
from idgrpo.formats import CONVERT_IMAGE, ordinary_file
from idgrpo.video.gamut import to_srgb_primaries

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "JPEG2000", "PPM")
MAX_PIXELS = 80_000_000
# Fewer pixels show nobody, and vision models refuse extreme shapes: Qwen-VL's resizing stops at 200 to 1.
MIN_SIDE_PX = 8
MAX_ASPECT = 50
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
ORIENTATION_TAG = 0x0112
TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What PNG's gAMA says of ordinary pictures.
PNG_GAMMA = 1 / 2.2
# Transfer functions of ITU-T H.273 whose pictures look flat and dark when they are shown as they are.
HDR = {16: "PQ", 18: "HLG"}
# Two profiles that differ by less than this many levels of 255 are the same space in two writings.
SAME_SPACE_LEVELS = 3


@dataclass(frozen=True)
class Picture:
    """A decoded picture: RGB as shown, the format of its file, and whether the file holds more than this one."""

    image: Image.Image
    format: str
    is_first_of_many: bool


def read_picture(path: Path | str) -> Picture:
    """Read a picture as upright 8-bit sRGB, transparency on white.

    Errors: DataError naming the file, for one that is missing, damaged or of another format, that has more than 80
    megapixels, fewer than 8 pixels on a side or an aspect beyond 50 to 1, and for HDR (PQ, HLG).
    """
    path = ordinary_file(path)
    try:
        with Image.open(path, formats=_formats()) as file:
            _check_size(path, *file.size)
            primaries = _coded_primaries(path)
            name, is_many = file.format or "", bool(getattr(file, "is_animated", False))
            file.load()
            return Picture(_shown(path, file, primaries), name, is_many)
    except IdgrpoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\d+", str(error))
        raise _too_large(path, f"{int(found[0]) / 1e6:.0f}" if found else "too many") from None
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        raise _unreadable(path, error) from error


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # older builds of Pillow lack AVIF


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width}x{height} px, {width * height / 1e6:.0f}")
    if min(width, height) < MIN_SIDE_PX or max(width, height) > MAX_ASPECT * min(width, height):
        raise DataError(
            f"{path}: the picture has {width}x{height} px; a side must have at least {MIN_SIDE_PX} px, and the longer one "
            f"at most {MAX_ASPECT} times the shorter one",
            fix="use another photo",
        )


def _too_large(path: Path, size: str) -> DataError:
    limit = f"at most {MAX_PIXELS / 1e6:.0f} are read"
    return DataError(f"{path}: the picture has {size} megapixels, {limit}", fix="make a smaller copy of it")


def _unreadable(path: Path, error: Exception) -> DataError:
    with path.open("rb") as file:
        head = file.read(32)
    if head[4:8] == b"ftyp" and b"avi" not in head and head[8:12] in HEIC_BRANDS:
        return DataError(f"{path}: HEIC pictures are not read", fix=CONVERT_IMAGE)
    if isinstance(error, Image.UnidentifiedImageError):
        return DataError(
            f"{path}: not a readable image (no picture, or in a format that is not read)", fix=CONVERT_IMAGE
        )
    return DataError(f"{path}: not a readable image ({type(error).__name__}: {error})", fix="make the file again")


def _coded_primaries(path: Path) -> int:
    """Give the primaries that an AVIF's colour box or a PNG's cICP chunk names, which the decoder does not look at, or 0.

    Errors: DataError for the transfer functions of HDR.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    box, chunk = head.find(b"colrnclx"), head.find(b"cICP")
    if head[4:8] == b"ftyp" and box >= 0:
        primaries, transfer = (int.from_bytes(head[box + k : box + k + 2], "big") for k in (8, 10))
    elif head.startswith(b"\x89PNG") and chunk >= 0:
        primaries, transfer = (int.from_bytes(head[chunk + k : chunk + k + 1], "big") for k in (4, 5))
    else:
        return 0
    if transfer in HDR:
        raise DataError(f"{path}: an HDR picture ({HDR[transfer]})", fix="export it in standard dynamic range")
    return primaries


def _shown(path: Path, image: Image.Image, primaries: int) -> Image.Image:
    turn = TURNS.get(_orientation(image))
    if image.mode == "F" or image.mode.startswith("I"):
        image = _greyscale(path, image)
    alpha = _alpha(image)
    colours = _as_srgb(path, image)
    if primaries and not image.info.get("icc_profile"):
        colours = Image.fromarray(to_srgb_primaries(np.asarray(colours), primaries))
    if alpha is not None:
        colours.putalpha(alpha)
        colours = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    return colours.transpose(turn) if turn is not None else colours


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF says nothing about pixels that could be read
        return 1
    return value if isinstance(value, int) else 1


def _greyscale(path: Path, image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float greyscale to 8 bits, with an alpha channel where one value is transparent."""
    values = np.asarray(image).astype(np.float64)
    lowest, highest = float(values.min()), float(values.max())
    if not np.isfinite((lowest, highest)).all() or lowest < 0:
        raise DataError(f"{path}: greyscale values must be finite and not negative, not {lowest:g} to {highest:g}")
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    white = _white(image.mode, tags.get(TIFF_BITS, (0,))[0] if tags else 16, highest)
    if tags.get(TIFF_PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds for 8 bits only
        values = white - values
    scaled = Image.fromarray(np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        scaled = Image.merge("LA", (scaled, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))))
    scaled.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return scaled


def _white(mode: str, bits: int, highest: float) -> float:
    """Say which value is white: the highest of the file's bits; for floats and 32 bits the first common one that suffices."""
    if mode != "F" and 8 < bits <= 16:
        return 2.0**bits - 1
    ladder = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
    return next((white for white in ladder if highest <= white), highest)


def _alpha(image: Image.Image) -> Image.Image | None:
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA").getchannel("A")
    return None


def _as_srgb(path: Path, image: Image.Image) -> Image.Image:
    """Convert to RGB by the picture's colour profile or PNG gamma; a profile that cannot be used is ignored, and said."""
    profile = image.info.get("icc_profile")
    if profile:
        mode = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK", "LAB": "LAB"}.get(image.mode, "RGB")
        try:
            transform = _to_srgb(profile, mode)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            log.warning("%s: its colour profile cannot be used and is ignored (%s)", path, error)
        else:
            colours = _opaque(image, mode)
            return colours.convert("RGB") if transform is None else _converted(colours, transform)
    colours, gamma = _opaque(image, "RGB"), image.info.get("gamma")
    if isinstance(gamma, float) and "srgb" not in image.info and 0.05 < gamma < 2 and abs(gamma - PNG_GAMMA) > 0.03:
        return colours.point([round(255 * (level / 255) ** (PNG_GAMMA / gamma)) for level in range(256)] * 3)
    return colours


def _converted(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only None when it works in place
    return converted


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    if mode == "RGB" and (image.mode in ("PA", "RGBa") or "transparency" in image.info):
        image = image.convert("RGBA")  # the colours of clear pixels stay what they are
    return image.copy() if image.mode == mode else image.convert(mode)


@lru_cache(maxsize=64)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the conversion of a profile to sRGB; None where the profile is sRGB itself, whose pixels stay as they are."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode in ("CMYK", "LAB"):
        return transform
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
    if mode == "L":
        cube = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 2, 1)
    shown = np.asarray(_converted(Image.fromarray(cube), transform)).astype(int)
    wanted = cube if mode == "RGB" else cube[..., None]
    return None if np.abs(shown - wanted).max() <= SAME_SPACE_LEVELS else transform

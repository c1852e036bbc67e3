"""Photos and clips of the kinds that the world has, each made from a picture or from frames; see test_real_inputs.py."""

import struct
from fractions import Fraction

import numpy as np
import torch
from PIL import Image, ImageCms
from tests.video.clips import display_matrix, encode
from tests.video.test_clips import trimmed
from tests.video.test_pictures import insert_chunk, write_large_png

from idgrpo.video.write import write_video


def grey(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).convert("L"))


def three(plane: np.ndarray) -> np.ndarray:
    return np.repeat(plane[..., None], 3, 2)


def marked(picture: np.ndarray, number: int) -> np.ndarray:
    """Change one grey pixel, so that the picture is another photo."""
    changed = picture.copy()
    changed[-1, -1] = 8 * number
    return changed


def deep_grey(path, picture):
    Image.fromarray(grey(picture).astype(np.uint16) * 257).save(path)
    return three(grey(picture))


def float_grey(path, picture):
    Image.fromarray(grey(picture).astype(np.float32) / 255).save(path)
    return three(grey(picture))


def see_through(path, picture):
    image = Image.fromarray(picture).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 6, 6))
    image.save(path)
    shown = picture.copy()
    shown[:6, :6] = 255
    return shown


def palette(path, picture):
    image = Image.fromarray(picture).quantize(64)
    image.save(path)
    return np.asarray(image.convert("RGB"))


def by_exif(value, stored):
    def write(path, picture):
        image = Image.fromarray(np.ascontiguousarray(stored(picture)))
        exif = image.getexif()
        exif[0x0112] = value
        image.save(path, exif=exif)
        return picture

    return write


def with_profile(path, picture):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture).save(path, icc_profile=profile)
    return picture


def several(path, picture):
    how = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(picture).save(path, save_all=True, append_images=[Image.new("RGB", picture.shape[1::-1])], **how)
    return picture


def lossless(kind):
    def write(path, picture):
        Image.fromarray(picture).save(path, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
        return picture

    return write


PHOTOS = {
    "gray16.png": deep_grey, "gray16.tif": deep_grey, "gray16.pgm": deep_grey, "float.tif": float_grey,
    "rgba.png": see_through, "palette.png": palette, "profile.png": with_profile,
    "mirrored.png": by_exif(2, np.fliplr), "upside-down.tif": by_exif(3, lambda p: np.rot90(p, 2)), "turned.png": by_exif(6, np.rot90),
    "animated.png": several, "pages.tif": several, "animated.webp": several,
    "plain.webp": lossless("WEBP"), "plain.bmp": lossless("BMP"), "named-otherwise.jpg": lossless("PNG"),
}  # fmt: skip


def huge_by_header(kind, place, layout):
    """Write a small picture whose header claims 20,000 x 20,000 px."""

    def write(path, picture):
        Image.fromarray(picture).save(path, format=kind)
        data = bytearray(path.read_bytes())
        data[place : place + struct.calcsize(layout)] = struct.pack(layout, 20_000, 20_000)
        path.write_bytes(bytes(data))

    return write


def of_size(width, height):
    return lambda path, picture: Image.new("RGB", (width, height)).save(path)


def hdr(path, picture):
    Image.fromarray(picture).save(path)
    insert_chunk(path, b"cICP", bytes([9, 16, 0, 1]))


def cut(path, picture):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_finite(path, picture):
    values = grey(picture).astype(np.float32) / 255
    values[3, 3] = np.nan
    Image.fromarray(values).save(path)


def heic(path, picture):
    path.write_bytes(struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + b"\0" * 200)


NO_PHOTOS = {
    "huge.png": (lambda path, picture: write_large_png(path, 20_000), "400 megapixels, at most 80"),
    "huge.gif": (huge_by_header("GIF", 6, "<HH"), "400 megapixels, at most 80"),
    "huge.bmp": (huge_by_header("BMP", 18, "<ii"), "400 megapixels, at most 80"),
    "thin.png": (of_size(1, 300), "1x300 px; a side must have at least 8 px"),
    "low.jpg": (of_size(300, 1), "300x1 px; a side must have at least 8 px"),
    "stripe.webp": (of_size(20, 1001), "20x1001 px"),
    "hdr.png": (hdr, "an HDR picture (PQ)"),
    "cut.jpg": (cut, "cut.jpg"),
    "not-finite.tif": (not_finite, "greyscale values must be finite"),
    "phone.heic": (heic, "HEIC pictures are not read"),
}  # fmt: skip


def of_matrix(values, stored):
    def write(path, frames):
        write_video(path, stored(frames).contiguous(), lossless=True)
        display_matrix(path, *values)
        return frames

    return write


def exact(path, frames, **how):
    """Encode without loss in 4:4:4."""
    return encode(path, frames, pix_fmt="yuv444p", codec="libx264", **{"options": {"crf": "0"}} | how)


def hidden_start(path, frames):
    """Hide 39 of 48 frames by the edit list, as cutters that do not encode do."""
    filler = frames.flip(0).repeat(5, 1, 1, 1)[:39]
    trimmed(path, 39, torch.cat([filler, frames]), pix_fmt="yuv444p", options={"g": "96", "crf": "0"})
    return frames


def wide_pixels(width, aspect):
    def write(path, frames):
        exact(path, sized(frames, frames.shape[2], width), aspect=Fraction(*aspect))
        return sized(sized(frames, frames.shape[2], width), frames.shape[2], width * aspect[0] // aspect[1])

    return write


def high_pixels(path, frames):
    exact(path, sized(frames, 16, frames.shape[3]), aspect=Fraction(1, 2))
    return sized(sized(frames, 16, frames.shape[3]), 32, frames.shape[3])


def sized(frames, height, width):
    resized = torch.nn.functional.interpolate(frames.float(), (height, width), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte()


def paused(path, frames):
    """25 frames a second, and a pause of 0.58 s behind the fourth."""
    exact(path, frames, times=[0, 64, 128, 192, 1120, 1184, 1248, 1312, 1376], unit=Fraction(1, 1600))
    return frames[[0, 1, 2, *[3] * 14, 4, 5, 6, 7, 8]]


def latin_title(path, frames):
    exact(path, frames, title="caf\u00e9s!")
    path.write_bytes(path.read_bytes().replace("caf\u00e9".encode(), b"caf\xe9e"))
    return frames


def of_shape(height, width, **how):
    def write(path, frames):
        exact(path, frames[:, :, :height, :width].contiguous(), **how)
        return frames[:, :, :height, :width]

    return write


def ten_bits(path, frames):
    encode(path, frames, pix_fmt="yuv444p10le", options={"crf": "0"})
    return frames


CLIPS = {
    "trimmed.mp4": hidden_start, "trimmed.mov": hidden_start, "trimmed.m4v": hidden_start,
    "mirrored.mp4": of_matrix((-1, 0, 0, 1), lambda v: v.flip(3)), "flipped.mp4": of_matrix((1, 0, 0, -1), lambda v: v.flip(2)),
    "mirrored-turned.mov": of_matrix((0, 1, 1, 0), lambda v: v.transpose(2, 3)),
    "wide-pixels.mp4": wide_pixels(24, (4, 3)), "wide-pixels.mkv": wide_pixels(16, (2, 1)), "high-pixels.mp4": high_pixels,
    "pause.mp4": paused, "pause.mkv": paused, "pause.mov": paused,
    "title.mkv": latin_title, "title.mp4": latin_title, "title.avi": latin_title,
    "odd.mp4": of_shape(31, 31), "odd-width.mkv": of_shape(32, 31), "odd-height.mov": of_shape(31, 32), "ten-bits.mkv": ten_bits,
}  # fmt: skip


def hdr_clip(transfer):
    def write(path, frames):
        encode(path, frames, pix_fmt="yuv420p10le", tags={"color_trc": transfer, "color_primaries": 9})

    return write


def cut_clip(path, frames):
    hidden_start(path, frames)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])


NO_CLIPS = {
    "pq.mp4": (hdr_clip(16), "HDR (PQ)"),
    "hlg.mkv": (hdr_clip(18), "HDR (HLG)"),
    "cut.mp4": (cut_clip, "the video is cut short"),
    "tilted.mp4": (of_matrix((1, 1, -1, 1), lambda v: v), "turned by an angle"),
    "absurd.mp4": (lambda path, frames: exact(path, frames, aspect=Fraction(1, 16)), "its pixels are said to be"),
    "list.mp4": (lambda path, frames: path.write_text("ffconcat version 1.0\nfile clip.mp4\n"), "list.mp4"),
    "picture.mp4": (lambda path, frames: Image.new("RGB", (32, 32)).save(path, format="PNG"), "picture.mp4"),
}  # fmt: skip

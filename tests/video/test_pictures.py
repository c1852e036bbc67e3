"""Pictures as cameras, scanners and editors make them: each comes out as it is seen, or is refused by name."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from tests.video.clips import card

from idgrpo.errors import DataError
from idgrpo.formats import IMAGE_ENDINGS
from idgrpo.video.read import read_image

GREY = np.tile(np.linspace(0, 1, 64), (32, 1))


def pixels(path) -> np.ndarray:
    return read_image(path).permute(1, 2, 0).numpy().astype(int)


def is_grey_ramp(found: np.ndarray) -> bool:
    return np.abs(found - np.rint(GREY * 255)[..., None]).max() <= 1 and len(np.unique(found)) > 50


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_every_ending_in_the_list_is_read(tmp_path, ending):
    if ending == ".pfm":
        write_pfm(tmp_path / "card.pfm", GREY)
        assert is_grey_ramp(pixels(tmp_path / "card.pfm"))
        return
    image = Image.fromarray(card()).convert("L" if ending == ".pgm" else "RGB")
    options = {"quality": 95} if ending in (".jpg", ".jpeg", ".jfif", ".webp", ".avif") else {}
    image.save(tmp_path / f"card{ending}", **options)
    wanted = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(pixels(tmp_path / f"card{ending}") - wanted).mean() < 8


def write_pfm(path, values):
    path.write_bytes(b"Pf\n%d %d\n-1.0\n" % values.shape[::-1] + values[::-1].astype("<f4").tobytes())


class TestGreyscale:
    @pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm", "deep.jp2"])
    def test_16_bits_are_scaled(self, tmp_path, name):
        Image.fromarray(np.rint(GREY * 65535).astype(np.uint16)).save(tmp_path / name)
        assert is_grey_ramp(pixels(tmp_path / name))

    def test_a_dark_16_bit_picture_stays_dark(self, tmp_path):
        Image.fromarray(np.rint(GREY * 6553).astype(np.uint16)).save(tmp_path / "dark.png")
        assert pixels(tmp_path / "dark.png").max() == 25

    def test_12_bits(self, tmp_path):
        write_tiff(tmp_path / "twelve.tif", np.rint(GREY * 4095).astype(int), bits=12)
        assert is_grey_ramp(pixels(tmp_path / "twelve.tif"))

    def test_white_is_zero(self, tmp_path):
        write_tiff(tmp_path / "negative.tif", np.rint((1 - GREY) * 65535).astype(int), bits=16, photometric=0)
        assert is_grey_ramp(pixels(tmp_path / "negative.tif"))

    @pytest.mark.parametrize("white", [1, 255, 65535])
    def test_floats_by_the_white_that_holds_them(self, tmp_path, white):
        Image.fromarray((GREY * white).astype(np.float32)).save(tmp_path / "float.tif")
        assert is_grey_ramp(pixels(tmp_path / "float.tif"))

    @pytest.mark.parametrize("white", [255, 65535, 2**31 - 1])
    def test_32_bits_by_the_white_that_holds_them(self, tmp_path, white):
        Image.fromarray(np.rint(GREY * white).astype(np.int32)).save(tmp_path / "long.tif")
        assert is_grey_ramp(pixels(tmp_path / "long.tif"))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -1])
    def test_values_without_meaning_are_refused(self, tmp_path, value):
        values = GREY.astype(np.float32)
        values[3, 3] = value
        Image.fromarray(values).save(tmp_path / "odd.tif")
        with pytest.raises(DataError, match=r"odd\.tif: greyscale values must be finite"):
            read_image(tmp_path / "odd.tif")

    def test_one_transparent_level_goes_on_white(self, tmp_path):
        values = np.rint(GREY * 65535).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "clear.png")
        insert_chunk(tmp_path / "clear.png", b"tRNS", struct.pack(">H", int(values[0, 20])))
        found = pixels(tmp_path / "clear.png")
        assert (found[:, 20] == 255).all() and abs(found[0, 21, 0] - 85) < 2


def write_tiff(path, values, bits, photometric=1):
    """Write an uncompressed greyscale TIFF of one strip, little-endian."""
    height, width = values.shape
    if bits == 16:
        data = values.astype("<u2").tobytes()
    else:  # packed, the high bits first
        row_bits = "".join(f"{value:0{bits}b}" for value in values.ravel())
        data = bytes(int(row_bits[k : k + 8], 2) for k in range(0, len(row_bits), 8))
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, len(data))]
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1) + (struct.pack("<I", v) if kind == 4 else struct.pack("<HH", v, 0))
        for tag, kind, v in tags
    )
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    )


def insert_chunk(path, kind: bytes, data: bytes):
    """Put a chunk behind a PNG's header."""
    content = path.read_bytes()
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content[:33] + chunk + content[33:])


class TestColours:
    def test_a_profile_is_converted_to_srgb(self, tmp_path):
        flat = Image.new("RGB", (32, 32), (180, 128, 90))
        flat.save(tmp_path / "wide.png", icc_profile=p3_profile())
        red, green, blue = pixels(tmp_path / "wide.png")[0, 0]
        assert 186 <= red <= 192 and 125 <= green <= 129 and 82 <= blue <= 88, "Display P3 of 180, 128, 90"

    def test_a_profile_of_srgb_changes_nothing(self, tmp_path):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        Image.fromarray(card()).save(tmp_path / "same.png", icc_profile=profile)
        assert np.array_equal(pixels(tmp_path / "same.png"), card())

    def test_transparency_survives_a_profile(self, tmp_path):
        image = Image.fromarray(card()).convert("RGBA")
        image.putalpha(0)
        image.save(tmp_path / "clear.png", icc_profile=p3_profile())
        assert (pixels(tmp_path / "clear.png") == 255).all()

    @pytest.mark.parametrize("profile", [b"no profile", b""])
    def test_a_broken_profile_is_ignored_and_said(self, tmp_path, profile, caplog):
        Image.fromarray(card()).save(tmp_path / "broken.png", icc_profile=profile)
        assert np.array_equal(pixels(tmp_path / "broken.png"), card())
        assert ("broken.png: its colour profile cannot be used" in caplog.text) == bool(profile)

    def test_a_profile_of_another_kind_of_picture_is_ignored(self, tmp_path, caplog):
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        Image.fromarray(card()).save(tmp_path / "lab.png", icc_profile=lab)
        assert np.array_equal(pixels(tmp_path / "lab.png"), card()) and "lab.png" in caplog.text

    def test_linear_png(self, tmp_path):
        light = np.rint(np.where(GREY <= 0.04045, GREY / 12.92, ((GREY + 0.055) / 1.055) ** 2.4) * 255).astype(np.uint8)
        Image.fromarray(light).convert("RGB").save(tmp_path / "linear.png")
        insert_chunk(tmp_path / "linear.png", b"gAMA", struct.pack(">I", 100000))
        found = pixels(tmp_path / "linear.png")[0, :, 0]
        assert np.abs(found - np.rint(GREY[0] * 255))[20:].max() < 6

    def test_an_ordinary_gamma_changes_nothing(self, tmp_path):
        Image.fromarray(card()).save(tmp_path / "usual.png")
        insert_chunk(tmp_path / "usual.png", b"gAMA", struct.pack(">I", 45455))
        assert np.array_equal(pixels(tmp_path / "usual.png"), card())

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
    def test_every_mode_of_png(self, tmp_path, mode):
        image = Image.fromarray(card()).convert(mode)
        image.save(tmp_path / "mode.png")
        assert np.array_equal(pixels(tmp_path / "mode.png"), np.asarray(image.convert("RGB")))

    @pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr"])
    def test_other_spaces(self, tmp_path, mode):
        (Image.fromarray(card()).convert(mode) if mode != "LAB" else as_lab(card())).save(tmp_path / "space.tif")
        assert np.abs(pixels(tmp_path / "space.tif") - card()).mean() < 3

    def test_wide_gamut_by_code_points(self, tmp_path):
        """A PNG may name Display P3 in four bytes instead of by a profile."""
        Image.new("RGB", (32, 32), (180, 128, 90)).save(tmp_path / "wide.png")
        insert_chunk(tmp_path / "wide.png", b"cICP", bytes([12, 13, 0, 1]))
        red, green, blue = pixels(tmp_path / "wide.png")[0, 0]
        assert 186 <= red <= 192 and 125 <= green <= 129 and 82 <= blue <= 88, "as by the profile of Display P3"

    @pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG")])
    def test_hdr_is_refused(self, tmp_path, transfer, name):
        Image.fromarray(card()).save(tmp_path / "hdr.png")
        insert_chunk(tmp_path / "hdr.png", b"cICP", bytes([9, transfer, 0, 1]))
        with pytest.raises(DataError, match=rf"hdr\.png: an HDR picture \({name}\)"):
            read_image(tmp_path / "hdr.png")
        Image.fromarray(card()).save(tmp_path / "hdr.avif")
        data = (tmp_path / "hdr.avif").read_bytes()
        place = data.index(b"colrnclx") + 8
        (tmp_path / "hdr.avif").write_bytes(data[:place] + struct.pack(">HH", 9, transfer) + data[place + 4 :])
        with pytest.raises(DataError, match=rf"hdr\.avif: an HDR picture \({name}\)"):
            read_image(tmp_path / "hdr.avif")


def as_lab(picture):
    lab = ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(Image.fromarray(picture), ImageCms.createProfile("sRGB"), lab, outputMode="LAB")


def p3_profile() -> bytes:
    """Write a version 2 profile of Display P3's primaries (adapted to D50) and a gamma of 2.2."""

    def s15(*values):
        return struct.pack(">" + "i" * len(values), *(round(v * 65536) for v in values))

    xyz = {
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }
    xyz[b"wtpt"] = (0.9642, 1.0, 0.8249)
    tags = {name: b"XYZ \0\0\0\0" + s15(*value) for name, value in xyz.items()}
    tags |= {
        name: b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
        for name in (b"rTRC", b"gTRC", b"bTRC")
    }
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 3) + b"P3\0" + b"\0" * 79
    tags[b"cprt"] = b"text\0\0\0\0none\0\0\0\0"
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + s15(0.9642, 1.0, 0.8249) + b"\0" * 48
    return head + struct.pack(">I", len(tags)) + table + body


class TestOrientation:
    TURNS = [lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, lambda a: a.transpose(1, 0, 2)]
    TURNS += [lambda a: np.rot90(a, -1), lambda a: np.rot90(a, 2).transpose(1, 0, 2), np.rot90]

    @pytest.mark.parametrize("value", range(1, 9))
    @pytest.mark.parametrize("ending", [".png", ".tif", ".webp"])
    def test_all_eight(self, tmp_path, value, ending):
        image = Image.fromarray(card())
        exif = image.getexif()
        exif[0x0112] = value
        image.save(tmp_path / f"turned{ending}", exif=exif, **({"lossless": True} if ending == ".webp" else {}))
        assert np.array_equal(pixels(tmp_path / f"turned{ending}"), self.TURNS[value - 1](card()))

    def test_a_deep_grey_picture_is_turned_too(self, tmp_path):
        image = Image.fromarray(np.rint(GREY * 65535).astype(np.uint16))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "turned.png", exif=exif)
        assert is_grey_ramp(np.rot90(pixels(tmp_path / "turned.png"), 1))

    def test_damaged_exif_does_not_cost_the_picture(self, tmp_path):
        Image.fromarray(card()).save(tmp_path / "exif.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff damaged")
        assert np.array_equal(pixels(tmp_path / "exif.png"), card())


class TestLimits:
    @pytest.mark.parametrize("size", [(1, 300), (300, 1), (7, 64), (20, 1001)])
    def test_too_thin(self, tmp_path, size):
        Image.new("RGB", size).save(tmp_path / "thin.png")
        with pytest.raises(DataError, match=r"thin\.png: the picture has \d+x\d+ px; a side must have at least 8 px"):
            read_image(tmp_path / "thin.png")

    def test_just_large_enough(self, tmp_path):
        Image.new("RGB", (8, 400)).save(tmp_path / "thin.png")
        assert read_image(tmp_path / "thin.png").shape == (3, 400, 8)

    @pytest.mark.parametrize("side, megapixels", [(9000, 81), (11_000, 121), (20_000, 400)])
    def test_too_large_for_three_reasons(self, tmp_path, side, megapixels):
        """Ours, the size at which Pillow warns, and the one at which it refuses."""
        write_large_png(tmp_path / "huge.png", side)
        with pytest.raises(DataError, match=rf"huge\.png: the picture has .*{megapixels} megapixels, at most 80"):
            read_image(tmp_path / "huge.png")

    def test_nearly_too_large(self, tmp_path, monkeypatch):
        monkeypatch.setattr("idgrpo.video.picture.MAX_PIXELS", 64 * 96)
        Image.fromarray(card()).save(tmp_path / "card.png")
        assert read_image(tmp_path / "card.png").shape == (3, 64, 96)


def write_large_png(path, side):
    """Write a black PNG of one bit a pixel, row by row, without holding it."""
    packer, row = zlib.compressobj(9), b"\0" * (1 + (side + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b""))


class TestFiles:
    @pytest.mark.parametrize("ending", [".gif", ".png", ".webp", ".tif"])
    def test_the_first_of_many_counts(self, tmp_path, ending):
        frames = [Image.fromarray(card()), Image.new("RGB", (96, 64)), Image.new("RGB", (96, 64), "white")]
        how = {"lossless": True} if ending == ".webp" else {}
        frames[0].save(tmp_path / f"many{ending}", save_all=True, append_images=frames[1:], **how)
        assert np.abs(pixels(tmp_path / f"many{ending}") - card()).mean() < 4

    def test_the_ending_does_not_decide(self, tmp_path):
        Image.fromarray(card()).save(tmp_path / "photo.jpg", format="PNG")
        assert np.array_equal(pixels(tmp_path / "photo.jpg"), card())

    def test_heic_is_named(self, tmp_path):
        (tmp_path / "phone.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + b"\0" * 200)
        with pytest.raises(DataError, match=r"phone\.heic: HEIC pictures are not read") as caught:
            read_image(tmp_path / "phone.heic")
        assert "PNG or JPEG" in caught.value.fix

    @pytest.mark.parametrize("content", [b"", b"x", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", b"<svg/>"])
    def test_what_is_no_picture_is_named(self, tmp_path, content):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.png: not a readable image \(no picture"):
            read_image(tmp_path / "x.png")

    def test_cut_short(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        for name in ("cut.png", "cut.jpg", "cut.webp", "cut.tif"):
            Image.fromarray(noise).save(tmp_path / name)
            data = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(data[: len(data) // 2])
            with pytest.raises(DataError, match=name):
                read_image(tmp_path / name)

    def test_folders_pipes_and_strange_names_are_named(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        for path in (tmp_path, tmp_path / "pipe.png", "a\0b.png", "x" * 5000, tmp_path / "none.png"):
            with pytest.raises(DataError):
                read_image(path)


def test_reading_pictures_needs_no_torch(tmp_path):
    import subprocess
    import sys

    Image.fromarray(card()).save(tmp_path / "card.png")
    program = "import sys; from idgrpo.video.picture import read_picture; read_picture(sys.argv[1]); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "card.png")]).returncode == 0


def test_pixels_are_a_tensor_of_bytes(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(card()).save(buffer, "PNG")
    (tmp_path / "card.png").write_bytes(buffer.getvalue())
    found = read_image(tmp_path / "card.png")
    assert found.dtype == torch.uint8 and found.is_contiguous() and found.shape == (3, 64, 96)

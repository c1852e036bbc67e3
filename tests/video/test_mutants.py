"""Damaged files: whatever bytes are changed, cut or repeated, reading gives pixels or an error of ours that names the file."""

import random
import time

import numpy as np
import pytest
from PIL import Image
from tests.video.clips import card, encode, moving

from idgrpo.errors import IdgrpoError
from idgrpo.video.probe import probe
from idgrpo.video.read import read_image, read_video

PICTURES = (
    "a.png",
    "a.jpg",
    "a.webp",
    "a.gif",
    "a.tif",
    "packed.tif",
    "a.bmp",
    "a.avif",
    "a.jp2",
    "a.ppm",
    "deep.png",
    "float.tif",
)
CLIPS = ("a.mp4", "a.mkv", "a.webm", "a.avi", "a.ts", "a.wmv", "a.flv", "lossless.mp4")
SLOWEST_S = 5


def mutants(seed: str, data: bytes, num: int):
    """Damage data in `num` ways: bits, bytes and numbers of headers changed, pieces cut out, doubled or moved, ends torn off."""
    draw = random.Random(seed)
    for _ in range(num):
        bad = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 4, 16))):
            if not bad:
                break
            # Half of the damage falls on the first bytes, where formats keep their numbers.
            at = draw.randrange(min(len(bad), 200) if draw.random() < 0.5 else len(bad))
            kind = draw.randrange(6)
            if kind == 0:
                bad[at] ^= 1 << draw.randrange(8)
            elif kind == 1:
                bad[at] = draw.choice((0, 1, 127, 128, 255))
            elif kind == 2:
                bad[at : at + 4] = draw.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\1\0\0\0")
                )
            elif kind == 3:
                del bad[at : at + draw.choice((1, 4, 64))]
            elif kind == 4:
                bad[at:at] = bad[at : at + draw.choice((1, 8, 128))]
            else:
                bad = bad[: max(1, at)]
        yield bytes(bad)


def picture(path):
    image = Image.fromarray(card(24, 32))
    exif = image.getexif()
    exif[0x0112] = 6
    if path.name == "deep.png":
        image = Image.fromarray(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80)
    if path.name == "float.tif":
        image = Image.fromarray(np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(24, 32))
    how = {"compression": "tiff_lzw"} if path.name == "packed.tif" else {}
    image.save(path, **how, **({} if path.suffix in (".bmp", ".gif", ".jp2", ".ppm") else {"exif": exif}))
    return path


def clip(path):
    if path.name == "lossless.mp4":
        from idgrpo.video.write import write_video

        write_video(path, moving(4, 32, 48), lossless=True)
        return path
    return encode(path, moving(4, 32, 48), **({"options": {"movflags": "faststart"}} if path.suffix == ".mp4" else {}))


def survives(path, action) -> bool:
    """Read a damaged file; True when it gave a value. Anything but a value or a named error fails the test."""
    begin, error = time.monotonic(), None
    try:
        action(path)
    except IdgrpoError as caught:
        error = caught
    assert error is None or path.name in str(error)
    assert time.monotonic() - begin < SLOWEST_S
    return error is None


def check(tmp_path, name, make, actions, num):
    data = make(tmp_path / name).read_bytes()
    bad = tmp_path / f"bad-{name}"
    survived = 0
    for content in mutants(name, data, num):
        bad.write_bytes(content)
        survived += sum(survives(bad, action) for action in actions)
    assert 0 < survived < num * len(actions), "some damage is seen, some does not matter"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PICTURES)
def test_damaged_pictures(tmp_path, name):
    check(tmp_path, name, picture, [read_image], 100)


@pytest.mark.parametrize("name", CLIPS)
def test_damaged_clips(tmp_path, name):
    check(tmp_path, name, clip, [probe, read_video], 40)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*PICTURES, *CLIPS])
def test_many_damaged_files(tmp_path, name):
    """A thousand of each kind, 20,000 in all."""
    make, actions = (picture, [read_image]) if name in PICTURES else (clip, [probe, read_video])
    check(tmp_path, name, make, actions, 1000)

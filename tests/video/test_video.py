import struct

import av
import numpy as np
import pytest
import torch
from PIL import Image

from idgrpo.errors import DataError, UsageError
from idgrpo.video.probe import probe
from idgrpo.video.read import read_image, read_video
from idgrpo.video.sheet import contact_sheet
from idgrpo.video.write import write_image, write_video


def clip(frames=9, height=32, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(frames, 3, height // 8, width // 8, generator=generator) * 255
    return small.repeat_interleave(8, 2).repeat_interleave(8, 3).byte()


def test_lossless_videos_are_bit_exact_and_their_bytes_repeat(tmp_path):
    frames = torch.randint(0, 256, (9, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, lossless=True)
    assert torch.equal(read_video(tmp_path / "a.mp4"), frames)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_h264_bytes_repeat_too(tmp_path):
    """Small frames are where x264's macroblock tree reads memory that is not the frame's: bytes then differ by chance."""
    frames = torch.nn.functional.interpolate(clip(12, 64, 64).float(), (64, 64), mode="bilinear")
    rows = torch.linspace(0, 3, 64)
    frames = (frames * (0.6 + 0.3 * torch.sin(rows[:, None] * rows + torch.arange(12.0).view(-1, 1, 1, 1)))).byte()
    written = set()
    for number in range(120):
        held = torch.rand(1000 + 37 * number)  # another layout of the memory each time
        write_video(tmp_path / "v.mp4", frames)
        written.add((tmp_path / "v.mp4").read_bytes())
        del held
    assert len(written) == 1


def test_h264_is_what_browsers_play(tmp_path):
    frames = clip()
    write_video(tmp_path / "v.mp4", frames, fps=16)
    info = probe(tmp_path / "v.mp4")
    assert (info.frames, info.width, info.height, info.fps, info.codec, info.pix_fmt, info.has_audio) == (
        9,
        48,
        32,
        16.0,
        "h264",
        "yuv420p",
        False,
    )
    assert (read_video(tmp_path / "v.mp4").float() - frames.float()).abs().mean() < 8
    data = (tmp_path / "v.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "fast start"


def test_chosen_frames_come_in_the_order_asked_for(tmp_path):
    frames = clip()
    write_video(tmp_path / "v.mp4", frames, lossless=True)
    assert torch.equal(read_video(tmp_path / "v.mp4", indices=[8, 0, 3]), frames[[8, 0, 3]])
    with pytest.raises(DataError, match="frame 20"):
        read_video(tmp_path / "v.mp4", indices=[20])


def test_bad_videos_are_named(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    write_video(tmp_path / "v.mp4", clip(60), lossless=True)
    data = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 10])
    for name in ("text.mp4", "empty.mp4", "cut.mp4", "none.mp4"):
        for action in (read_video, probe):
            with pytest.raises(DataError, match=name.replace(".", r"\.")):
                action(tmp_path / name)


def test_odd_sides_are_refused_with_the_nearest_valid_size(tmp_path):
    with pytest.raises(UsageError, match="48x32"):
        write_video(tmp_path / "v.mp4", torch.zeros(2, 3, 33, 49, dtype=torch.uint8))


def test_alpha_goes_on_white_and_images_stand_upright(tmp_path):
    Image.new("RGBA", (16, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").eq(255).all()
    image = Image.new("RGB", (16, 8), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 16, 8)
    (tmp_path / "x.png").write_text("no")
    with pytest.raises(DataError, match=r"x\.png"):
        read_image(tmp_path / "x.png")


def test_images_round_trip(tmp_path):
    image = clip(1)[0]
    write_image(tmp_path / "i.png", image)
    assert torch.equal(read_image(tmp_path / "i.png"), image)


def test_videos_with_sound_and_without_even_rate_are_read(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        audio = container.add_stream("aac", rate=44100)
        for index, picture in enumerate(clip(5).permute(0, 2, 3, 1).contiguous().numpy()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index * index
            container.mux(video.encode(frame))
        container.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        sound.sample_rate = 44100
        container.mux(audio.encode(sound))
        container.mux(audio.encode())
    assert probe(path).has_audio
    assert read_video(path).shape == (5, 3, 32, 48)


def turned(path, degrees_clockwise):
    """Set the matrix in the track header, as phones do that record upright with a sensor that lies."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: 4 flags, 20 times and id, 8 reserved, 8 layer and volume
    one, sign = 0x10000, {90: 1, 270: -1}[degrees_clockwise]
    data[start : start + 36] = struct.pack(">9i", 0, sign * one, 0, -sign * one, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("degrees", [90, 270])
def test_rotated_phone_videos_stand_upright(tmp_path, degrees):
    frames = clip(4, 32, 48)
    lying = frames.rot90(1 if degrees == 90 else -1, (2, 3)).contiguous()
    write_video(tmp_path / "phone.mp4", lying, lossless=True)
    turned(tmp_path / "phone.mp4", degrees)
    info = probe(tmp_path / "phone.mp4")
    assert (info.width, info.height) == (48, 32)
    assert torch.equal(read_video(tmp_path / "phone.mp4"), frames)


def test_contact_sheets_hold_every_row():
    sheet = contact_sheet([[clip(1)[0], clip(9)], [clip(1)[0], clip(3)]], ["first", "second"])
    assert sheet.dtype == torch.uint8 and sheet.shape[0] == 3
    assert sheet.shape[1] == 2 * (16 + 96 + 4)


def test_a_missing_folder_is_made(tmp_path):
    frames = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    write_video(tmp_path / "a" / "b" / "clip.mp4", frames)
    write_image(tmp_path / "c" / "d" / "picture.png", frames[0])
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["clip.mp4", "picture.png"]


def test_a_titled_sheet_is_a_table_with_numbers_on_portraits():
    from idgrpo.video.sheet import SheetRow, frame_titles, numbered, titled_sheet

    grey = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    wide = torch.full((3, 64, 128), 90, dtype=torch.uint8)
    two = SheetRow([grey, grey], [wide] * 3, "base", "a prompt that is longer than the sheet is wide, " * 9)
    one = SheetRow([grey], [wide] * 3, "tuned")
    sheet = titled_sheet([two, one])
    assert sheet.shape == (3, 16 + 2 * (96 + 4) + 3 * 16, 2 * (96 + 4) + 3 * (192 + 4))
    assert (sheet[:, -96:-4, 104:196] == 255).all()  # the second person's place is empty where there is one
    assert len(numbered(grey, 1).flatten(1).unique(dim=1)[0]) > 1
    assert not torch.equal(numbered(grey, 1), numbered(grey, 2))
    assert frame_titles(4) == ["first frame", "", "", "last frame"] and frame_titles(1) == ["frame"]

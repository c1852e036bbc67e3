"""Clips as cameras, phones and editors make them: each comes out as a player shows it, or is refused by name."""

from fractions import Fraction

import av
import pytest
import torch
from tests.video.clips import card, display_matrix, encode, moving

from idgrpo.errors import DataError, UsageError
from idgrpo.formats import VIDEO_ENDINGS
from idgrpo.video.probe import probe
from idgrpo.video.read import read_video
from idgrpo.video.write import with_even_sides, write_video


def looks_like(found: torch.Tensor, wanted: torch.Tensor, levels: float = 4.0) -> bool:
    return found.shape == wanted.shape and (found.float() - wanted.float()).abs().mean() < levels


def agree(path) -> torch.Tensor:
    """Read a clip, and check that `probe` said what came."""
    info, clip = probe(path), read_video(path)
    assert (info.frames, info.height, info.width) == (len(clip), *clip.shape[-2:])
    assert torch.equal(read_video(path, indices=[len(clip) - 1, 0]), clip[[-1, 0]])
    return clip


@pytest.mark.parametrize("ending", VIDEO_ENDINGS)
def test_every_ending_in_the_list_is_read(tmp_path, ending):
    how = {".m4v": {"format": "mp4"}, ".mts": {"format": "mpegts"}, ".mpeg": {"codec": "mpeg2video"}}.get(ending, {})
    how |= {"codec": "libvpx"} if ending == ".ogv" else {}
    how |= {"rate": 25} if ending in (".mpg", ".mpeg") else {}
    path = encode(tmp_path / f"clip{ending}", moving(), **how)
    assert looks_like(agree(path), moving())
    assert probe(path).fps == pytest.approx(how.get("rate", 16))


class TestGeometry:
    # a, b, c, d of the matrix; how the stored frames become those shown.
    TURNS = {
        "as stored": ((1, 0, 0, 1), lambda v: v),
        "clockwise": ((0, 1, -1, 0), lambda v: v.rot90(-1, (2, 3))),
        "upside down": ((-1, 0, 0, -1), lambda v: v.rot90(2, (2, 3))),
        "counter-clockwise": ((0, -1, 1, 0), lambda v: v.rot90(1, (2, 3))),
        "mirrored": ((-1, 0, 0, 1), lambda v: v.flip(3)),
        "flipped": ((1, 0, 0, -1), lambda v: v.flip(2)),
        "mirrored, turned": ((0, 1, 1, 0), lambda v: v.transpose(2, 3)),
        "mirrored, turned back": ((0, -1, -1, 0), lambda v: v.transpose(2, 3).rot90(2, (2, 3))),
    }

    @pytest.mark.parametrize("name", TURNS)
    def test_all_eight_display_matrices(self, tmp_path, name):
        values, shown = self.TURNS[name]
        write_video(tmp_path / "phone.mp4", moving(4), lossless=True)
        assert torch.equal(agree(display_matrix(tmp_path / "phone.mp4", *values)), shown(moving(4)))

    def test_an_odd_angle_is_refused(self, tmp_path):
        write_video(tmp_path / "tilted.mp4", moving(2), lossless=True)
        display_matrix(tmp_path / "tilted.mp4", 1, 1, -1, 1)
        for action in (probe, read_video):
            with pytest.raises(DataError, match=r"tilted\.mp4: turned by an angle"):
                action(tmp_path / "tilted.mp4")

    def test_a_matrix_of_zeros_turns_nothing(self, tmp_path):
        write_video(tmp_path / "zero.mp4", moving(2), lossless=True)
        assert torch.equal(read_video(display_matrix(tmp_path / "zero.mp4", 0, 0, 0, 0)), moving(2))

    @pytest.mark.parametrize(
        "name, aspect, size",
        [("wide.mp4", (4, 3), (64, 128)), ("high.mkv", (1, 2), (128, 96)), ("almost.mp4", (801, 800), (64, 96))],
    )
    def test_pixels_become_square(self, tmp_path, name, aspect, size):
        path = encode(tmp_path / name, moving(3), aspect=Fraction(*aspect))
        clip = agree(path)
        assert tuple(clip.shape[-2:]) == size
        wanted = torch.nn.functional.interpolate(moving(3).float(), size, mode="bilinear")
        assert (clip.float() - wanted).abs().mean() < 6

    def test_a_turned_clip_of_wide_pixels(self, tmp_path):
        path = display_matrix(encode(tmp_path / "both.mp4", moving(2), aspect=Fraction(4, 3)), 0, 1, -1, 0)
        assert agree(path).shape == (2, 3, 128, 64)

    def test_absurd_pixels_are_refused(self, tmp_path):
        encode(tmp_path / "thin.mp4", moving(2), aspect=Fraction(1, 16))
        with pytest.raises(DataError, match=r"thin\.mp4: its pixels are said to be"):
            probe(tmp_path / "thin.mp4")

    def test_a_size_that_changes_is_named(self, tmp_path):
        for name, size in (("a", (64, 96)), ("b", (32, 48))):
            encode(tmp_path / f"{name}.ts", moving(4, *size), options={"bf": "0"})
        joined = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
        (tmp_path / "joined.ts").write_bytes(joined)
        with pytest.raises(DataError, match=r"joined\.ts"):
            read_video(tmp_path / "joined.ts")


class TestTime:
    @pytest.mark.parametrize("name", ["pause.mp4", "pause.mkv", "pause.mov"])
    def test_a_pause_stays(self, tmp_path, name):
        times = [0, 64, 128, 192, 1120, 1184, 1248, 1312, 1376]  # 25 frames a second and a pause of 0.58 s
        clip = agree(encode(tmp_path / name, moving(), times=times))
        assert probe(tmp_path / name).fps == pytest.approx(25, rel=0.05)
        steps = (clip[1:].float() - clip[:-1].float()).abs().mean((1, 2, 3))
        assert len(clip) == 22 and (steps < 0.05).sum() == 13
        assert len(clip) / probe(tmp_path / name).fps == pytest.approx(0.9, abs=0.05)

    def test_matroska_keeps_its_rate(self, tmp_path):
        path = encode(tmp_path / "round.mkv", moving(25), rate=24)
        assert probe(path).fps == 24.0 and len(agree(path)) == 25

    def test_a_clip_that_was_trimmed_without_encoding_is_whole(self, tmp_path):
        path = trimmed(tmp_path / "trimmed.mp4", start=15)
        clip = agree(path)
        assert len(clip) == 33 and looks_like(clip, moving(48)[15:])

    def test_a_trimmed_clip_that_is_cut_short_is_refused(self, tmp_path):
        path = trimmed(tmp_path / "trimmed.mp4", start=15)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 3 // 4])
        for action in (probe, read_video):
            with pytest.raises(DataError, match=r"trimmed\.mp4: the video is cut short: \d+ of 48"):
                action(path)

    def test_a_matroska_file_that_is_cut_short_is_refused(self, tmp_path):
        noise = torch.randint(0, 256, (48, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        data = encode(tmp_path / "clip.mkv", noise).read_bytes()
        (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
        for action in (probe, read_video):
            with pytest.raises(DataError, match=r"cut\.mkv: the video is cut short: it ends at 1\.\d+ of 3\.00 s"):
                action(tmp_path / "cut.mkv")


def trimmed(path, start, frames=None, **how):
    """Copy the packets of 48 frames and hide the first `start` of them by the edit list, as lossless cutters do."""
    frames = moving(48) if frames is None else frames
    whole = encode(path.with_name("whole.mp4"), frames, **{"options": {"g": "96"}} | how)
    with (
        av.open(str(whole)) as source,
        av.open(str(path), "w", format="mp4", options={"use_editlist": "1", "movflags": "faststart"}) as target,
    ):
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                shift = int(Fraction(start, 16) / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                target.mux(packet)
    return path


class TestColours:
    PICTURE = torch.from_numpy(card(720, 1280)).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)

    @pytest.mark.parametrize("frames", [PICTURE, PICTURE.transpose(2, 3)], ids=["wide", "high"])
    def test_untagged_hd_is_bt709(self, tmp_path, frames):
        path = encode(tmp_path / "hd.mp4", frames.contiguous(), matrix="ITU709")
        assert looks_like(read_video(path), frames, 2)

    def test_untagged_sd_is_bt601(self, tmp_path):
        assert looks_like(read_video(encode(tmp_path / "sd.mp4", moving(2), matrix="ITU601")), moving(2), 2)

    @pytest.mark.parametrize("matrix, value", [("ITU709", 1), ("ITU601", 6), ("BT2020", 9)])
    def test_tags_win(self, tmp_path, matrix, value):
        path = encode(tmp_path / "tagged.mp4", moving(2), matrix=matrix, tags={"colorspace": value})
        assert looks_like(read_video(path), moving(2), 2)

    def test_full_range(self, tmp_path):
        path = encode(tmp_path / "full.mp4", moving(2), range="JPEG", tags={"color_range": 2})
        assert looks_like(read_video(path), moving(2), 2)

    @pytest.mark.parametrize("value, name", [(16, "PQ"), (18, "HLG")])
    def test_hdr_is_refused_by_name(self, tmp_path, value, name):
        path = encode(
            tmp_path / "hdr.mp4", moving(2), pix_fmt="yuv420p10le", tags={"color_trc": value, "color_primaries": 9}
        )
        for action in (probe, read_video):
            with pytest.raises(DataError, match=rf"hdr\.mp4: HDR \({name}\)") as caught:
                action(path)
            assert "tone-map" in caught.value.fix

    @pytest.mark.parametrize("primaries", [12, 9], ids=["Display P3", "BT.2020"])
    def test_wide_gamut_becomes_srgb(self, tmp_path, primaries):
        grey = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
        colour = grey.clone()
        colour[:, 0], colour[:, 2] = 180, 90
        for name, frames in (("grey", grey), ("colour", colour)):
            encode(tmp_path / f"{name}.mp4", frames, tags={"color_primaries": primaries, "color_trc": 13})
        assert looks_like(read_video(tmp_path / "grey.mp4"), grey, 2), "grey stays grey"
        red, green, blue = read_video(tmp_path / "colour.mp4").float().mean((0, 2, 3)).tolist()
        assert red > 185 and blue < 88 and abs(green - 128) < 12, "more saturated in the smaller space"

    def test_what_we_write_says_what_it_is(self, tmp_path):
        for lossless, tags in ((False, (1, 13, 6, 1)), (True, (1, 13, 0, 2))):
            write_video(tmp_path / "own.mp4", moving(3), lossless=lossless)
            with av.open(str(tmp_path / "own.mp4")) as container:
                context = container.streams.video[0].codec_context
                found = context.color_primaries, context.color_trc, context.colorspace, context.color_range
            assert found == tags
            assert looks_like(read_video(tmp_path / "own.mp4"), moving(3), 3)

    def test_hd_comes_back_in_the_colours_that_were_written(self, tmp_path):
        write_video(tmp_path / "own.mp4", self.PICTURE)
        assert looks_like(read_video(tmp_path / "own.mp4"), self.PICTURE, 2)


class TestContainers:
    @pytest.mark.parametrize("name", ["title.mkv", "title.mp4", "title.avi"])
    def test_titles_need_not_be_utf8(self, tmp_path, name):
        path = encode(tmp_path / name, moving(), title="caf\u00e9s!")
        data = path.read_bytes()
        assert data.count("café".encode()) == 1
        path.write_bytes(data.replace("café".encode(), b"caf\xe9e"))
        assert looks_like(agree(path), moving())

    def test_names_may_look_like_addresses(self, tmp_path, monkeypatch):
        write_video(tmp_path / "http:clip.mp4", moving(), lossless=True)
        monkeypatch.chdir(tmp_path)
        assert torch.equal(read_video("http:clip.mp4"), moving())

    def test_playlists_pictures_and_texts_are_no_clips(self, tmp_path):
        write_video(tmp_path / "clip.mp4", moving(), lossless=True)
        (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
        (tmp_path / "stream.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n")
        (tmp_path / "text.mp4").write_text("a text that a terminal would show\n" * 50)
        from idgrpo.video.write import write_image

        write_image(tmp_path / "picture.png", moving(1)[0])
        (tmp_path / "picture.mp4").write_bytes((tmp_path / "picture.png").read_bytes())
        for name in ("list", "stream", "text", "picture"):
            with pytest.raises(DataError, match=rf"{name}\.mp4"):
                read_video(tmp_path / f"{name}.mp4")

    def test_folders_pipes_and_strange_names_are_named(self, tmp_path):
        import os

        os.mkfifo(tmp_path / "pipe.mp4")
        for path in (
            tmp_path,
            tmp_path / "pipe.mp4",
            "a\0b.mp4",
            "x" * 5000,
            tmp_path / "none.mp4",
            tmp_path / "none" / "x",
        ):
            for action in (probe, read_video):
                with pytest.raises(DataError):
                    action(path)

    def test_a_file_that_changed_is_looked_at_again(self, tmp_path):
        write_video(tmp_path / "clip.mp4", moving(9), lossless=True)
        assert probe(tmp_path / "clip.mp4").frames == 9
        write_video(tmp_path / "clip.mp4", moving(5), lossless=True)
        assert probe(tmp_path / "clip.mp4").frames == 5 == len(read_video(tmp_path / "clip.mp4"))

    def test_a_clip_too_long_for_memory_is_refused(self, tmp_path, monkeypatch):
        write_video(tmp_path / "long.mp4", moving(9), lossless=True)
        monkeypatch.setattr("idgrpo.video.read.MAX_CLIP_BYTES", 8 * 3 * 64 * 96)
        with pytest.raises(DataError, match=r"long\.mp4: 9 frames of 96x64 px"):
            read_video(tmp_path / "long.mp4")
        assert len(read_video(tmp_path / "long.mp4", indices=list(range(8)))) == 8


class TestWriting:
    @pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e-9, 5000])
    def test_rates_that_cannot_be_written_are_refused(self, tmp_path, fps):
        with pytest.raises(UsageError, match=r"clip\.mp4: .* frames a second"):
            write_video(tmp_path / "clip.mp4", moving(2), fps=fps)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 3, 0, 8), (2, 1, 8, 8), (3, 8, 8)])
    def test_what_is_no_clip_is_refused(self, tmp_path, shape):
        with pytest.raises(UsageError, match=r"clip\.mp4: a video must be"):
            write_video(tmp_path / "clip.mp4", torch.zeros(shape, dtype=torch.uint8))

    def test_odd_sides_become_even(self):
        frames = moving(2, 65, 97)
        even = with_even_sides(frames)
        assert even.shape == (2, 3, 66, 98) and torch.equal(even[:, :, :65, :97], frames)
        assert torch.equal(even[:, :, 65], even[:, :, 64]) and torch.equal(even[..., 97], even[..., 96])
        assert with_even_sides(moving(2)).shape == moving(2).shape

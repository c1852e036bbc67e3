import pytest
import torch
from PIL import Image
from tests.video.clips import card, encode, moving

from idgrpo.annotate.config import QueueConfig, ServeConfig
from idgrpo.annotate.media import check_media, publish_media, resolve
from idgrpo.annotate.schema import open_database
from idgrpo.annotate.session import allowed_hosts, is_loopback, prepare, serve_session
from idgrpo.errors import BusyError, DataError, UsageError
from idgrpo.records.models import Reference
from idgrpo.video.probe import probe
from idgrpo.video.read import read_image
from idgrpo.video.write import write_video


@pytest.fixture
def database(tmp_path):
    connection = open_database(tmp_path / "session.sqlite")
    yield connection
    connection.close()


def test_what_browsers_cannot_play_is_found_and_transcode_mends_it(database, clips, clip_pairs, tmp_path, caplog):
    (pair,) = clip_pairs(1)
    foreign = encode(clips / "foreign.mp4", moving(9, 71, 95), pix_fmt="yuv444p")
    broken = pair.model_copy(update={"video_b": str(foreign)})
    before = foreign.read_bytes()
    with pytest.raises(DataError, match=r"foreign\.mp4: h264, yuv444p") as caught:
        check_media(database, [broken], tmp_path / "mended", transcode=False)
    assert "--transcode" in caught.value.fix
    check_media(database, [broken], tmp_path / "mended", transcode=True)
    _, clip = publish_media(database, b"s", broken.video_b)
    assert clip.path.startswith(str(tmp_path / "mended")) and clip.frames == 9
    assert foreign.read_bytes() == before
    info = probe(clip.path)
    assert (info.width, info.height, info.pix_fmt) == (96, 72, "yuv420p"), "odd sides get one more row and column"
    assert "foreign.mp4: shown with its last row or column twice" in caplog.text
    check_media(database, [broken], tmp_path / "mended", transcode=False)  # remembered


@pytest.mark.parametrize("lossless, size", [(False, (32, 48)), (True, (32, 48)), (True, (71, 95))])
def test_whatever_we_write_is_shown_without_being_asked(database, clips, clip_pairs, tmp_path, lossless, size):
    (pair,) = clip_pairs(1)
    write_video(clips / "own.mp4", moving(5, *size), fps=12, lossless=lossless)
    check_media(
        database, [pair.model_copy(update={"video_a": str(clips / "own.mp4")})], tmp_path / "m", transcode=False
    )
    _, clip = publish_media(database, b"s", str(clips / "own.mp4"))
    assert (clip.fps, clip.frames) == (12.0, 5) and probe(clip.path).pix_fmt == "yuv420p"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "still.gif"])
def test_pictures_that_browsers_show_are_given_out_as_they_are(database, clips, clip_pairs, tmp_path, name):
    Image.fromarray(card()).save(clips / name)
    assert shown_picture(database, clip_pairs, clips / name, tmp_path) == str(clips / name)
    assert not (tmp_path / "mended").exists()


@pytest.mark.parametrize("name", ["a.tif", "a.avif", "a.bmp", "a.jp2", "moving.gif", "png inside.jpg"])
def test_other_pictures_get_a_copy_of_what_the_models_see(database, clips, clip_pairs, tmp_path, name):
    image, more = Image.fromarray(card()), [Image.new("RGB", (96, 64))]
    how = {"save_all": True, "append_images": more} if name == "moving.gif" else {}
    image.save(clips / name, **how, **({"format": "PNG"} if name.startswith("png") else {}))
    copy = shown_picture(database, clip_pairs, clips / name, tmp_path)
    assert copy.startswith(str(tmp_path / "mended")) and copy.endswith(".png")
    assert torch.equal(read_image(copy), read_image(clips / name))


def shown_picture(database, clip_pairs, file, tmp_path) -> str:
    (pair,) = clip_pairs(1)
    pair = pair.model_copy(update={"references": [Reference(person="p", images=[str(file)])]})
    check_media(database, [pair], tmp_path / "mended", transcode=False)
    return publish_media(database, b"s", str(file))[1].path


@pytest.mark.parametrize("kind", ["thin", "huge", "heic", "hdr"])
def test_what_no_stage_reads_is_refused_by_name(database, clips, clip_pairs, tmp_path, kind):
    (pair,) = clip_pairs(1)
    if kind == "hdr":
        file = encode(clips / "hdr.mp4", moving(2), pix_fmt="yuv420p10le", tags={"color_trc": 16})
        pair = pair.model_copy(update={"video_a": str(file)})
    else:
        file = clips / f"{kind}.png"
        if kind == "heic":
            file.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
        else:
            Image.new("1", (1, 300) if kind == "thin" else (9000, 9000)).save(file)
        pair = pair.model_copy(update={"references": [Reference(person="p", images=[str(file)])]})
    with pytest.raises(DataError, match=file.name.replace(".", r"\.")):
        check_media(database, [pair], tmp_path / "mended", transcode=True)


def test_all_bad_files_are_told_at_once(database, clips, clip_pairs, tmp_path):
    (clips / "text.mp4").write_text("no video")
    (clips / "note.txt").write_text("no picture")
    (pair,) = clip_pairs(1)
    pair = pair.model_copy(
        update={
            "video_a": str(clips / "missing.mp4"),
            "video_b": str(clips / "text.mp4"),
            "references": [Reference(person="p", images=[str(clips / "note.txt")])],
        }
    )
    with pytest.raises(DataError) as caught:
        check_media(database, [pair], tmp_path / "mended", transcode=True)
    for name in ("missing.mp4", "text.mp4", "note.txt"):
        assert name in caught.value.message


def test_links_stay_in_their_folder(clips, tmp_path):
    (clips / "inside.mp4").symlink_to(clips / "one.mp4")
    assert resolve(str(clips / "inside.mp4")) == (clips / "one.mp4").resolve()
    (tmp_path / "outside.mp4").write_bytes(b"x")
    (clips / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    with pytest.raises(DataError, match="leads out"):
        resolve(str(clips / "link.mp4"))
    with pytest.raises(DataError, match="not a file"):
        resolve(str(clips))


def test_a_session_is_filled_once_and_refuses_other_pairs(database, clip_pairs, tmp_path):
    config = QueueConfig()
    prepare(database, clip_pairs(3), config, tmp_path)
    prepare(database, clip_pairs(3), config.model_copy(update={"lease_s": 5.0}), tmp_path)
    assert database.execute("SELECT COUNT(*) FROM pairs").fetchone() == (3,)
    with pytest.raises(UsageError, match="another list of pairs"):
        prepare(database, clip_pairs(2), config, tmp_path)
    with pytest.raises(UsageError, match="another queue setting"):
        prepare(database, clip_pairs(3), QueueConfig(overlap=1), tmp_path)


def test_hosts():
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost") and not is_loopback("0.0.0.0")
    assert "evil.example" not in allowed_hosts(ServeConfig())
    assert allowed_hosts(ServeConfig(host="10.0.0.5")) == {"10.0.0.5"}
    assert allowed_hosts(ServeConfig(host="0.0.0.0", names=["lab.example"])) == {"lab.example"}
    with pytest.raises(UsageError, match="under which names"):
        allowed_hosts(ServeConfig(host="0.0.0.0"))


def serve(tmp_path, pairs, config, **more):
    told = []
    gathered = serve_session(
        pairs, tmp_path / "run", QueueConfig(), config, tell=told.append, should_stop=lambda: True, **more
    )
    return told, gathered


def test_public_hosts_need_links(tmp_path, clip_pairs):
    config = ServeConfig(host="0.0.0.0", names=["lab.example"], port=0)
    with pytest.raises(UsageError, match="needs a link"):
        serve(tmp_path, clip_pairs(1), config)
    told, gathered = serve(tmp_path, clip_pairs(1), config, annotators=["ann", "bob"])
    assert (
        len(told) == 3
        and "organise.html#token=" in told[2]
        and told[0].startswith("ann: http://lab.example:")
        and "#enter=" in told[0]
    )
    assert gathered.votes == []


def test_a_taken_port_is_told(tmp_path, clip_pairs):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(BusyError, match="cannot listen"):
            serve(tmp_path, clip_pairs(1), ServeConfig(port=other.getsockname()[1]))

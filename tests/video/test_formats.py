import pytest

from idgrpo.errors import DataError
from idgrpo.formats import (
    IMAGE_ENDINGS,
    UNREAD_IMAGES,
    UNREAD_VIDEOS,
    VIDEO_ENDINGS,
    images_in,
    ordinary_file,
    videos_in,
)


def test_no_ending_is_in_two_lists():
    lists = [VIDEO_ENDINGS, IMAGE_ENDINGS, UNREAD_IMAGES, UNREAD_VIDEOS]
    assert len({ending for one in lists for ending in one}) == sum(map(len, lists))
    assert all(ending == ending.lower() and ending.startswith(".") for one in lists for ending in one)


def test_a_folder_lists_its_clips_and_pictures(tmp_path):
    for name in ("b.MP4", "a.webm", "c.png", "d.JPG", "notes.txt", ".hidden.mp4", "._a.webm"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    assert [path.name for path in videos_in(tmp_path)] == ["a.webm", "b.MP4"]
    assert [path.name for path in images_in(tmp_path)] == ["c.png", "d.JPG"]


@pytest.mark.parametrize("ending", [*UNREAD_IMAGES, *UNREAD_VIDEOS])
def test_what_is_not_read_is_named_and_not_skipped(tmp_path, ending):
    (tmp_path / "good.png").touch()
    (tmp_path / "good.mp4").touch()
    (tmp_path / f"phone{ending.upper()}").touch()
    listed, other = (images_in, videos_in) if ending in UNREAD_IMAGES else (videos_in, images_in)
    with pytest.raises(DataError, match=f"phone{ending.upper()}: {ending} .* are not read") as caught:
        listed(tmp_path)
    assert "convert it to" in caught.value.fix
    assert len(other(tmp_path)) == 1


def test_folders_that_cannot_be_listed_are_named(tmp_path):
    for folder in (tmp_path / "none", tmp_path / "x\0y"):
        with pytest.raises(DataError, match="cannot be listed"):
            videos_in(folder)
    (tmp_path / "a file").touch()
    with pytest.raises(DataError, match="a file: the folder cannot be listed"):
        images_in(tmp_path / "a file")


def test_links_to_files_are_files(tmp_path):
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "clip.mp4")
    (tmp_path / "dead.mp4").symlink_to(tmp_path / "gone")
    assert ordinary_file(tmp_path / "link.mp4") == tmp_path / "link.mp4"
    with pytest.raises(DataError, match=r"dead\.mp4: there is no such file"):
        ordinary_file(tmp_path / "dead.mp4")

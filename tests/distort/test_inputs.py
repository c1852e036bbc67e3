from pathlib import Path

import pytest
import torch

from idgrpo.distort.inputs import read_samples, slug
from idgrpo.errors import DataError
from idgrpo.records.jsonl import write_records
from idgrpo.video.write import write_image, write_video


def make_folder(folder: Path, names: tuple[str, ...] = ("walk",)) -> Path:
    for name in names:
        write_video(folder / f"{name}.mp4", torch.zeros(3, 3, 16, 16, dtype=torch.uint8))
        (folder / name).mkdir()
        for level, person in enumerate(("a", "b")):
            write_image(folder / name / f"{person}.png", torch.full((3, 8, 8), level, dtype=torch.uint8))
    return folder


def test_a_folder_of_videos_with_references_beside_them(tmp_path):
    make_folder(tmp_path, ("walk", "run"))
    (tmp_path / "walk.txt").write_text("two people walk\n")
    (tmp_path / "notes.md").write_text("not a video")
    run, walk = read_samples(tmp_path)
    assert (run.id, walk.id, walk.prompt, run.prompt) == ("run", "walk", "two people walk", "")
    assert [Path(r.images[0]).name for r in walk.references] == ["a.png", "b.png"]
    assert [r.person for r in walk.references] == [r.person for r in run.references], "the same photos"
    assert len({r.person for r in walk.references}) == 2


def test_one_photo_twice_is_no_second_person(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "walk" / "c.png").write_bytes((tmp_path / "walk" / "a.png").read_bytes())
    with pytest.raises(DataError, match=r"c\.png: the same photo as a\.png"):
        read_samples(tmp_path)


@pytest.mark.parametrize("name", ["second.m4v", "second.webm", "second.MOV"])
def test_every_known_ending_is_a_video(name, tmp_path):
    make_folder(tmp_path, ("first", "second"))
    (tmp_path / "second.mp4").rename(tmp_path / name)
    assert [sample.id for sample in read_samples(tmp_path)] == ["first", "second"]


@pytest.mark.parametrize("name", ["other.vob", "walk/c.heic"])
def test_what_is_not_read_is_named_and_not_left_out(name, tmp_path):
    make_folder(tmp_path)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=f"{name}: .* are not read"):
        read_samples(tmp_path)


def test_a_video_without_references_says_where_they_belong(tmp_path):
    write_video(tmp_path / "walk.mp4", torch.zeros(3, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(DataError, match="no references") as caught:
        read_samples(tmp_path)
    assert "one image a person" in caught.value.fix


def test_a_file_and_its_folder_read_the_same(tiny_samples, tmp_path):
    write_records(tmp_path / "samples.jsonl", tiny_samples)
    assert read_samples(tmp_path / "samples.jsonl") == read_samples(tmp_path) == tiny_samples


def test_ids_that_are_there_twice_are_refused(tiny_samples, tmp_path):
    write_records(tmp_path / "samples.jsonl", [*tiny_samples, tiny_samples[0]])
    with pytest.raises(
        DataError, match=rf"samples\.jsonl:{len(tiny_samples) + 1}: field 'id': .* stands already in line 1"
    ):
        read_samples(tmp_path / "samples.jsonl")


def test_two_videos_of_one_name_are_refused(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "walk.mkv").write_bytes((tmp_path / "walk.mp4").read_bytes())
    with pytest.raises(DataError, match=r"walk\.mp4: walk\.mkv has the same name"):
        read_samples(tmp_path)


def test_one_photo_of_two_people_is_refused(tiny_samples, tmp_path):
    first = tiny_samples[0].references[0]
    other = first.model_copy(update={"person": "somebody else"})
    samples = [tiny_samples[0], tiny_samples[1].model_copy(update={"references": [other]})]
    write_records(tmp_path / "samples.jsonl", samples)
    with pytest.raises(DataError, match=r"samples\.jsonl:2: .* is the photo of .* in line 1"):
        read_samples(tmp_path)


def test_file_names_of_ids_are_plain_and_different():
    assert slug("case-3.a_b") == "case-3.a_b"
    assert slug("a/b") != slug("a-b") and "/" not in slug("../../x") and slug("../../x")[0] != "."
    assert len(slug("x" * 400)) < 120 and slug("ü") != slug("ö")

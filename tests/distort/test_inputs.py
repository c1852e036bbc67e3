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
        for person in ("a", "b"):
            write_image(folder / name / f"{person}.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    return folder


def test_a_folder_of_videos_with_references_beside_them(tmp_path):
    make_folder(tmp_path, ("walk", "run"))
    (tmp_path / "walk.txt").write_text("two people walk\n")
    (tmp_path / "notes.md").write_text("not a video")
    run, walk = read_samples(tmp_path)
    assert (run.id, walk.id, walk.prompt, run.prompt) == ("run", "walk", "two people walk", "")
    assert [Path(r.images[0]).name for r in walk.references] == ["a.png", "b.png"]
    assert [r.person for r in walk.references] == ["walk/a", "walk/b"]


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
    with pytest.raises(DataError, match="twice"):
        read_samples(tmp_path / "samples.jsonl")


def test_file_names_of_ids_are_plain_and_different():
    assert slug("case-3.a_b") == "case-3.a_b"
    assert slug("a/b") != slug("a-b") and "/" not in slug("../../x") and slug("../../x")[0] != "."
    assert len(slug("x" * 400)) < 120 and slug("ü") != slug("ö")

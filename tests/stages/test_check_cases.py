"""`idgrpo cases --check`: planted faults in photos of the embedded world are named, good photos pass, whatever finder looks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from idgrpo.cli.main import run
from idgrpo.people.contract import Detection, Levels
from idgrpo.people.portraits import blur_of, turn_of
from idgrpo.tinyworld.cases import make_cases, write_cases
from idgrpo.tinyworld.finder import TinyFinder


@pytest.fixture
def world(tmp_path):
    """Write four cases of two people; gives their file and the portrait of the first person of each case."""
    write_cases(tmp_path, make_cases(4, 7, "held-out"))
    return tmp_path / "cases.jsonl", sorted((tmp_path / "portraits").glob("*-0.png"))


@pytest.fixture
def check(world, tmp_path, capsys):
    """Run the check; gives exit code and document."""

    def look(*more: str):
        words = ["cases", str(world[0]), "--check", "--sheet", f"{tmp_path}/sheet.png", "--store", f"{tmp_path}/store"]
        capsys.readouterr()
        code = run([*words, *more, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return look


def problems(document, path: Path) -> str:
    return "; ".join(next(row["problems"] for row in document["rows"] if row["path"] == str(path)))


def test_good_photos_are_good(check, world, tmp_path):
    code, document = check()
    assert code == document["exit_code"] == document["bad"] == 0
    assert (document["cases"], document["photos"], document["finder"]) == (4, 16, "tiny")
    assert all(row["people"] == 1 and row["side_px"] > 8 for row in document["rows"])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (5 * 232, 4 * (224 + 45 + 8))
    assert not list((tmp_path / "store").glob("artifacts/*/*")), "nothing is published"


def nobody(path, photos):
    Image.new("RGB", (32, 32), (120, 120, 120)).save(path)


def two_people(path, photos):
    page = Image.new("RGB", (64, 32))
    for place, photo in enumerate(photos[:2]):
        page.paste(Image.open(photo).convert("RGB"), (32 * place, 0))
    page.save(path)


def blurred(path, photos):
    Image.open(photos[0]).convert("RGB").filter(ImageFilter.GaussianBlur(3)).save(path)


def the_same_picture(path, photos):
    Image.open(photos[1]).convert("RGB").save(path, compress_level=1)


def another_light(path, photos):
    picture = np.asarray(Image.open(photos[1]).convert("RGB")).astype(float)
    Image.fromarray((picture * 0.97 + 3).astype(np.uint8)).save(path)


def too_thin(path, photos):
    Image.new("RGB", (1, 300)).save(path)


FAULTS = {
    nobody: "nobody found",
    two_people: "2 people",
    blurred: "blurred (0.",
    the_same_picture: "the same picture as",
    another_light: "looks like the same person as",
    too_thin: "the picture has 1x300 px",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_named_and_no_other_photo(check, world, fault):
    path = world[1][0]
    before = check()[1]
    fault(path, world[1])
    code, document = check()
    assert code == document["exit_code"] == 1
    assert FAULTS[fault] in problems(document, path)
    own = next(row["person"] for row in document["rows"] if row["path"] == str(path))
    for row, earlier in zip(document["rows"], before["rows"], strict=True):
        if row["person"] != own and fault not in (another_light, the_same_picture):
            assert row["problems"] == earlier["problems"] == []


def test_a_small_person_is_told_by_the_setting(check):
    code, document = check("--set", "min_side_px=21")
    assert code == 1 and all("too small (20 of 21 px)" in row["problems"][0] for row in document["rows"])


def test_two_people_of_one_case_who_are_too_alike(check, world):
    rows = check("--finder", f"{__name__}:Alike")[1]["rows"]
    assert all(
        "too alike within a case" in "; ".join(row["problems"])
        for row in rows
        if not row["path"].endswith("second.png")
    )


def test_any_finder_may_look_and_its_settings_are_configuration(check):
    code, document = check("--finder", f"{__name__}:Turned", "--set", "min_side_px=8", "--set", "options.turn=0.5")
    assert code == 1 and document["levels"] == {"same_person": 0.92, "stranger": 0.7}
    assert all(row["problems"] == ["turned away (0.50)"] for row in document["rows"])
    code, document = check("--finder", f"{__name__}:Turned", "--set", "min_side_px=8", "--set", "options.turn=0.3")
    assert code == 0 and all(row["turn"] == pytest.approx(0.3) for row in document["rows"])
    assert check("--finder", f"{__name__}:Turned", "--set", "min_side_px=8", "--set", "options.turm=0.3")[0] == 2


def test_options_of_the_check_need_it_and_the_sheet_a_folder(world, tmp_path):
    assert run(["cases", str(world[0]), "--finder", "tiny", "--store", str(tmp_path)]) == 2
    assert run(["cases", str(world[0]), "--check", "--sheet", f"{tmp_path}/none/x.png"]) == 2
    assert run(["cases", f"{tmp_path}/none.jsonl", "--check"]) == 3


class Turned(TinyFinder):
    """Finds who is there, with landmarks of a face that is turned away."""

    levels = Levels(same_person=0.92, stranger=0.7)

    def __init__(self, turn: float = 0.5):
        super().__init__()
        self.turn = turn

    def find(self, clip: torch.Tensor) -> list[list[Detection]]:
        found = super().find(clip)
        for detection in (d for frame in found for d in frame):
            nose = 4 + self.turn * 8
            detection.landmarks = np.array([[0.0, 0], [8, 0], [nose, 5], [1, 9], [7, 9]])
        return found


class Alike(TinyFinder):
    """Finds who is there, and sees a likeness in everybody."""

    levels = Levels(same_person=0.9, stranger=0.3)

    def find(self, clip: torch.Tensor) -> list[list[Detection]]:
        found = super().find(clip)
        for detection in (d for frame in found for d in frame):
            vector = np.full(64, 1.0)
            vector[int(clip.sum()) % 64] += 8
            detection.embedding = vector / np.linalg.norm(vector)
        return found


def test_the_numbers_behind_the_table():
    edge = torch.zeros(64, 64)
    edge[:, 32:] = 1
    soft = torch.linspace(0, 1, 64).repeat(64, 1)
    assert blur_of(torch.rand(64, 64, generator=torch.Generator().manual_seed(0))) < 0.2
    assert blur_of(soft) > 0.8 and blur_of(torch.zeros(64, 64)) == 1
    assert turn_of(np.array([[0, 0], [8, 0], [4, 5], [1, 9], [7, 9]])) == 0
    tilted = np.array([[0, 0], [4, 4], [2 + 2, 2], [0, 0], [0, 0]]) * np.array([1.0, 1.0])
    assert turn_of(tilted) == pytest.approx(0.25)
    assert turn_of(np.zeros((5, 2))) == 1

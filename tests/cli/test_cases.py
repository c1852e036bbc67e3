"""`idgrpo cases`: cases of the embedded world and of one's own photos, published with copies of the photos."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idgrpo.cli.main import run
from idgrpo.records.cases import read_cases
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Sample
from idgrpo.store.store import Store


@pytest.fixture
def call(tmp_path, capsys):
    def invoke(*words) -> tuple[int, dict, str]:
        capsys.readouterr()
        code = run([*map(str, words), "--store", str(tmp_path / "store"), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out), err

    return invoke


def photo(path: Path, shade: int) -> Path:
    Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(path)
    return path


def test_fresh_cases_of_the_embedded_world_are_drawn_once(call):
    code, first, err = call("cases", "--num", 3, "--people", 3, "--split", "test")
    assert code == 0, err
    assert first["num_cases"] == 3 and first["num_people"] == 9 and first["artifact"] == "cases/tinyworld@v1"
    assert call("cases", "--num", 3, "--people", 3, "--split", "test")[1]["artifact"] == first["artifact"]
    assert call("cases", "--num", 3, "--people", 3, "--seed", 1)[1]["artifact"] == "cases/tinyworld@v2"


def test_cases_of_a_table_keep_their_photos_when_the_originals_go(call, tmp_path):
    for index in range(2):
        photo(tmp_path / f"{index}.png", 40 + 90 * index)
    rows = "ref_paths,prompt\n0.png;1.png,two people walk\n1.png;0.png,two people cross\n"
    (tmp_path / "people.csv").write_text(rows)
    code, made, err = call("cases", tmp_path / "people.csv")
    assert code == 0, err
    assert made["artifact"] == "cases/people@v1" and made["num_cases"] == 2
    folder = Path(made["path"])
    assert len(list((folder / "photos").iterdir())) == 2, "a photo of many cases lies there once"
    for index in range(2):
        (tmp_path / f"{index}.png").unlink()
    (tmp_path / "people.csv").unlink()
    for case in read_cases(folder / "cases.jsonl"):
        assert all(Path(image).is_file() for reference in case.references for image in reference.images)
    assert Store(tmp_path / "store").resolve("cases/people").verify() is None


def test_a_replaced_photo_makes_a_new_artifact(call, tmp_path):
    photo(tmp_path / "a.png", 40)
    (tmp_path / "people.csv").write_text("ref_paths,prompt\na.png,somebody walks\n")
    first = call("cases", tmp_path / "people.csv")[1]
    assert call("cases", tmp_path / "people.csv")[1]["artifact"] == first["artifact"]
    photo(tmp_path / "a.png", 90)
    assert call("cases", tmp_path / "people.csv")[1]["artifact"] == "cases/people@v2"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("ref_paths,prompt\nnone.png,x\n", 3, "none.png"),
        ("ref_paths\nx\n", 3, "prompt"),
        ("ref_paths,prompt\n", 3, "no cases"),
    ],
)
def test_what_cannot_be_cases_is_named(call, tmp_path, text, code, says):
    (tmp_path / "people.csv").write_text(text)
    got, document, _ = call("cases", tmp_path / "people.csv")
    assert got == code and says in document["error"]["message"]
    assert call("cases", tmp_path / "missing.csv")[0] == 3 and call("cases", "cases/none")[0] == 4


def test_a_dry_run_publishes_nothing(call, tmp_path):
    code, plan, _ = call("cases", "--num", 5, "--dry-run")
    assert code == 0 and plan["num_cases"] == 5 and not (tmp_path / "store" / "artifacts").exists()


def test_true_clips_are_drawn_for_the_worlds_own_cases_only(call, tmp_path):
    call("cases", "--num", 2)
    code, made, err = call("sample", "--base", "tinyworld")
    assert code == 0, err
    samples = list(read_records(Path(made["path"]) / "samples.jsonl", Sample))
    assert made["artifact"] == "samples/true@v1" and {sample.base for sample in samples} == {"tinyworld"}
    photo(tmp_path / "a.png", 40)
    (tmp_path / "people.csv").write_text("ref_paths,prompt\na.png,somebody walks\n")
    code, document, _ = call("sample", "--base", "tinyworld", "--cases", tmp_path / "people.csv")
    assert code == 3 and "not of the embedded world" in document["error"]["message"]

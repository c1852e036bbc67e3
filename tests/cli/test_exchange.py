"""`idgrpo artifacts export` and `import-preferences` through the command line."""

import csv
import json
from pathlib import Path

import pytest
from tests.annotate.conftest import clip_pairs, clips  # noqa: F401 the annotate room's fixtures

from idgrpo.cli.main import run
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Preference
from idgrpo.store.store import Store


@pytest.fixture
def preferences(tmp_path, clip_pairs) -> Path:  # noqa: F811
    labels = ("a", "b", "tie", "both_bad")
    records = [
        Preference(**pair.model_dump(exclude={"references"}), references=pair.references, label=label, source="human")
        for pair, label in zip(clip_pairs(4), labels, strict=True)
    ]
    write_records(tmp_path / "prefs.jsonl", records)
    return tmp_path / "prefs.jsonl"


@pytest.mark.parametrize(("format_", "num"), [("jsonl", 4), ("trl", 2), ("videoalign", 4)])
def test_there_and_back(tmp_path, preferences, capsys, format_, num):
    store, out = str(tmp_path / "store"), tmp_path / "elsewhere" / "data.out"
    assert run(["artifacts", "export", str(preferences), str(out), "--format", format_, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["written"] == num
    if format_ == "trl":
        assert document["tie"] == document["both_bad"] == 1
    if format_ == "videoalign":
        with out.open(newline="") as file:
            row = next(csv.DictReader(file))
        assert (row["fps_A"], row["num_frames_A"]) == ("16.0", "9")
    for _ in range(2):  # the second time the artifact is there
        assert run(["artifacts", "import-preferences", str(out), "--format", format_, "--store", store, "--quiet"]) == 0
        assert capsys.readouterr().out == "preferences/import@v1\n"
    got = list(read_records(Store(Path(store)).resolve("preferences").file("prefs.jsonl"), Preference))
    assert got == list(read_records(preferences, Preference))[:num]
    assert all(Path(item.video_a).is_file() and Path(item.references[0].images[0]).is_file() for item in got)


def test_a_wrong_line_is_named_and_nothing_is_published(tmp_path, preferences, capsys):
    out, store = tmp_path / "data.csv", tmp_path / "store"
    assert run(["artifacts", "export", str(preferences), str(out), "--format", "videoalign"]) == 0
    out.write_text(out.read_text().replace(",same,", ",perhaps,", 1))
    assert run(["artifacts", "import-preferences", str(out), "--format", "videoalign", "--store", str(store)]) == 3
    assert "data.csv:4: field 'identity': 'perhaps' is not known" in capsys.readouterr().err
    assert not list(store.rglob("prefs.jsonl"))
    code = run(
        [
            "artifacts",
            "import-preferences",
            str(out),
            "--format",
            "videoalign",
            "--store",
            str(store),
            "--dimension",
            "VQ",
        ]
    )
    assert code == 3 and "column VQ is missing" in capsys.readouterr().err


def test_nothing_to_export_is_an_error(tmp_path, preferences, capsys):
    code = run(["artifacts", "export", str(preferences), str(tmp_path / "x.jsonl"), "--dimension", "motion"])
    assert code == 3 and "--dimension" in capsys.readouterr().err
    assert not (tmp_path / "x.jsonl").exists()

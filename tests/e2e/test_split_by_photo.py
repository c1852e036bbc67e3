"""No photo of the test part is in training: the same photo in many rows is one person, from CSV, JSON Lines and folders to the split."""

import json
import shutil
from itertools import combinations
from pathlib import Path

import pytest
from tests.e2e.place import Place

from idgrpo.records.digest import file_digest
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Case
from idgrpo.tinyworld.cases import make_cases, write_cases

NUM_COUPLES = 6
ROWS = 2


@pytest.fixture
def photos(tmp_path):
    """Give photos of eight couples, and where copies of them under other names lie."""
    write_cases(tmp_path / "drawn", make_cases(NUM_COUPLES, 11))
    couples = [sorted((tmp_path / "drawn/portraits").glob(f"*-{k:04d}-[01].png")) for k in range(NUM_COUPLES)]
    (tmp_path / "copies").mkdir()
    for couple in couples:
        for photo in couple:
            shutil.copyfile(photo, tmp_path / "copies" / f"copy-of-{photo.name}")
    return couples


def rows_of(photos, tmp_path):
    """Give (photos, prompt) of each row; every second row names copies of the photos, in the other order."""
    for number in range(ROWS):
        for couple in photos:
            yield (
                couple if number % 2 == 0 else [tmp_path / "copies" / f"copy-of-{p.name}" for p in couple[::-1]],
                f"scene {number}",
            )


def as_csv(photos, tmp_path):
    lines = [f"{a};{b},{prompt}" for (a, b), prompt in rows_of(photos, tmp_path)]
    (tmp_path / "given.csv").write_text("ref_paths,prompt\n" + "\n".join(lines) + "\n")
    return tmp_path / "given.csv"


def as_csv_with_names(photos, tmp_path):
    names = {file_digest(photo): f"person {k}" for k, photo in enumerate(p for couple in photos for p in couple)}
    lines = [
        f"{a};{b},{prompt},row-{k},{names[file_digest(a)]};{names[file_digest(b)]}"
        for k, ((a, b), prompt) in enumerate(rows_of(photos, tmp_path))
    ]
    (tmp_path / "named.csv").write_text("ref_paths,prompt,id,people\n" + "\n".join(lines) + "\n")
    return tmp_path / "named.csv"


def as_json_lines(photos, tmp_path):
    names = {file_digest(photo): f"person {k}" for k, photo in enumerate(p for couple in photos for p in couple)}
    cases = [
        {
            "id": f"row {k}",
            "prompt": prompt,
            "references": [{"person": names[file_digest(p)], "images": [str(p)]} for p in couple],
        }
        for k, (couple, prompt) in enumerate(rows_of(photos, tmp_path))
    ]
    (tmp_path / "given.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    return tmp_path / "given.jsonl"


def as_folder(photos, tmp_path):
    lines = []
    for number, couple in enumerate(photos):
        for side, photo in enumerate(couple):
            (tmp_path / "folder" / f"couple {number} {side}").mkdir(parents=True)
            shutil.copyfile(photo, tmp_path / "folder" / f"couple {number} {side}" / photo.name)
        people = [f"couple {number} {side}" for side in range(2)]
        lines += [{"prompt": f"scene {k}", "people": people[:: 1 if k % 2 == 0 else -1]} for k in range(ROWS)]
    (tmp_path / "folder" / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "folder"


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout", [as_csv, as_csv_with_names, as_json_lines, as_folder], ids=lambda layout: layout.__name__
)
def test_no_photo_of_the_test_part_is_in_training(place: Place, photos, tmp_path, monkeypatch, layout):
    given, store = layout(photos, tmp_path), ["--store", str(place.store.root), "--name", "split"]
    made = place.works(["cases", str(given), *store])
    assert (made["num_cases"], made["num_people"]) == (ROWS * NUM_COUPLES, 2 * NUM_COUPLES)
    cases = list(read_records(place.store.resolve(made["artifact"]).file("cases.jsonl"), Case))
    assert layout is not as_csv_with_names or [case.id for case in cases] == [f"row-{k}" for k in range(len(cases))]
    samples = ["sample", "--base", "tiny-phantom", "--cases", made["artifact"], "--steps", "1", "--num-per-case", "2"]
    samples = place.works([*samples, *store])["artifact"]
    votes = ["annotate", "--samples", samples, "--by", "judge", "--judge", "rm"]
    votes = place.works([*votes, *store])["artifact"]
    parts = {}
    monkeypatch.setattr("idgrpo.reward.train.check_parts", lambda found, **shares: parts.update(found))
    shares = ["--set", "data.test_share=0.3", "--set", "data.validation_share=0.2", "--set", "head.epochs=1"]
    place.run(["train-rm", "--data", votes, *shares, *store])
    seen = {
        name: {file_digest(Path(path)) for pair in pairs for r in pair.references for path in (*r.images, *r.second)}
        for name, pairs in parts.items()
    }
    assert set(seen) == {"train", "validation", "test"} and all(seen.values()), {k: len(v) for k, v in seen.items()}
    for first, second in combinations(seen, 2):
        assert not seen[first] & seen[second], f"a photo of {first} is in {second} too"
    assert sum(map(len, seen.values())) == 2 * NUM_COUPLES

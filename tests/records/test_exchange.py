"""Preferences to and from TRL / Hugging Face JSON Lines and VideoAlign CSV."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from idgrpo.errors import DataError
from idgrpo.records.exchange import read_trl, read_videoalign, write_trl, write_videoalign
from idgrpo.records.models import Preference, Reference


def measure(video: str) -> tuple[float, int]:
    return 16.0, 9


def preference(folder: Path, name: str, label: str, **fields) -> Preference:
    people = [Reference(person="p1", images=[str(folder / "one.png")]),
              Reference(person="p2", images=[str(folder / "two.png")], second=[str(folder / "more.png")])]  # fmt: skip
    return Preference(
        pair_id=name, case_id="case", prompt='two "people", walking\nthrough a door', references=people,
        video_a=str(folder / f"{name}-a.mp4"), video_b=str(folder / f"{name}-b.mp4"), label=label,
        votes={label: 3}, source="human", **fields,
    )  # fmt: skip


@pytest.fixture
def mixed(tmp_path) -> list[Preference]:
    return [
        preference(tmp_path / "in", "first", "a", origin={"a": {"base": "vace", "seed": 1}, "by": "people"}),
        preference(tmp_path / "in", "second", "b", distortion="swap", strength=0.5, split="test"),
        preference(tmp_path / "in", "third", "tie"),
        preference(tmp_path / "in", "fourth", "both_bad"),
    ]


def test_trl_keeps_decided_preferences_whole_and_counts_the_rest(tmp_path, mixed):
    out = tmp_path / "out" / "trl.jsonl"
    assert write_trl(out, mixed) == {"written": 2, "tie": 1, "both_bad": 1}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        ("../in/first-a.mp4", "../in/first-b.mp4"),
        ("../in/second-b.mp4", "../in/second-a.mp4"),
    ]
    assert all(isinstance(row["idgrpo"], str) and row["images"] == ["../in/one.png", "../in/two.png"] for row in rows)
    assert list(read_trl(out, check_files=False)) == mixed[:2]


def test_videoalign_round_trip_keeps_everything(tmp_path, mixed):
    out = tmp_path / "out" / "data.csv"
    assert write_videoalign(out, mixed, measure) == {"written": 4}
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["identity"] for row in rows] == ["A", "B", "same", "same"]
    assert rows[0]["path_A"] == "../in/first-a.mp4" and rows[0]["num_frames_B"] == "9" and rows[0]["fps_A"] == "16.0"
    assert list(read_videoalign(out, check_files=False)) == mixed


def test_what_is_lost_without_our_column(tmp_path, mixed):
    """Somebody else's tool keeps only the columns it knows: people become one image each, both_bad becomes tie."""
    out = tmp_path / "in" / "data.csv"
    write_videoalign(out, mixed, measure)
    with out.open(newline="") as file:
        rows = [{key: value for key, value in row.items() if key != "idgrpo"} for row in csv.DictReader(file)]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    got = list(read_videoalign(out, source="judge", check_files=False))
    assert [item.label for item in got] == ["a", "b", "tie", "tie"]
    assert {item.source for item in got} == {"judge"} and not any(item.votes for item in got)
    assert [reference.images for reference in got[0].references] == [r.images for r in mixed[0].references]
    assert len({item.pair_id for item in got}) == 4 and len({item.case_id for item in got}) == 1


def test_a_label_changed_by_others_is_what_counts(tmp_path, mixed):
    out = tmp_path / "data.csv"
    write_videoalign(out, mixed[3:], measure)
    out.write_text(out.read_text().replace(",same,", ",B,", 1))
    assert [item.label for item in read_videoalign(out, check_files=False)] == ["b"]


def test_foreign_trl_rows(tmp_path):
    """A conversation as prompt, video cells of Hugging Face, columns we do not know, no images."""
    lines = [
        {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "they dance"}]}],
         "chosen": {"path": f"good-{i}.mp4", "bytes": None}, "rejected": f"bad-{i}.mp4", "score": 3}
        for i in range(40)
    ]  # fmt: skip
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    got = list(read_trl(file, source="synthetic", dimension="motion", check_files=False))
    assert {(item.prompt, item.source, item.dimension) for item in got} == {("they dance", "synthetic", "motion")}
    for item in got:
        assert "good" in (item.video_a if item.label == "a" else item.video_b)
    assert 8 < sum(item.label == "a" for item in got) < 32  # a does not stand for chosen
    elsewhere = tmp_path / "moved" / "data.jsonl"
    elsewhere.parent.mkdir()
    elsewhere.write_text(file.read_text())
    again = list(read_trl(elsewhere, source="synthetic", dimension="motion", check_files=False))
    assert [(item.pair_id, item.label) for item in again] == [(item.pair_id, item.label) for item in got]


def test_errors_name_line_and_field(tmp_path):
    trl = tmp_path / "data.jsonl"
    good = {"prompt": "x", "chosen": "a.mp4", "rejected": "b.mp4"}
    trl.write_text("\n".join([json.dumps(good), json.dumps({**good, "rejected": 3}), "{", json.dumps(good)]))
    with pytest.raises(DataError) as caught:
        list(read_trl(trl, check_files=False))
    text = caught.value.message
    assert "data.jsonl:2: field 'rejected'" in text and "data.jsonl:3: not valid JSON" in text
    assert "data.jsonl:4: the same pair stands already in line 1" in text
    with pytest.raises(DataError, match=r"data.jsonl:1: field 'chosen': there is no file"):
        list(read_trl(trl))
    table = tmp_path / "data.csv"
    table.write_text('path_A,path_B,prompt,VQ\na.mp4,b.mp4,"two\nlines",A\nc.mp4,d.mp4,x,better\ne.mp4,,x\n')
    with pytest.raises(DataError) as caught:
        list(read_videoalign(table, dimension="VQ", check_files=False))
    text = caught.value.message
    assert "data.csv:4: field 'VQ': 'better' is not known (known: 'A', 'B' or 'same')" in text
    assert "data.csv:5: 3 columns instead of 4" in text
    with pytest.raises(DataError, match=r"column identity is missing \(found: path_A, path_B, prompt, VQ\)") as caught:
        list(read_videoalign(table))
    assert "--dimension" in caught.value.fix


def test_two_dimensions_do_not_fit_into_one_table(tmp_path, mixed):
    other = mixed[1].model_copy(update={"dimension": "motion"})
    with pytest.raises(DataError, match="several dimensions"):
        write_videoalign(tmp_path / "data.csv", [mixed[0], other], measure)
    assert list(tmp_path.iterdir()) == []


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(prompt="\r", person="\r\n;", label="b", dimension="VQ")
@given(prompt=text, person=text, label=st.sampled_from(["a", "b", "tie", "both_bad"]), dimension=st.sampled_from(["identity", "VQ"]))  # fmt: skip
def test_any_text_survives_both_formats(tmp_path, prompt, person, label, dimension):
    item = preference(tmp_path, "one", label).model_copy(
        update={"prompt": prompt, "dimension": dimension, "references": [Reference(person=person, images=[str(tmp_path / "i.png")])]}
    )  # fmt: skip
    write_videoalign(tmp_path / "data.csv", [item], measure)
    assert list(read_videoalign(tmp_path / "data.csv", dimension=dimension, check_files=False)) == [item]
    if label in "ab":
        write_trl(tmp_path / "data.jsonl", [item])
        assert list(read_trl(tmp_path / "data.jsonl", check_files=False)) == [item]

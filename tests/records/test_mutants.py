"""Damaged texts: whatever bytes are changed, cut or repeated, reading gives records or an error of ours that names the file."""

import json
import random

import pytest

from idgrpo.errors import IdgrpoError
from idgrpo.records.cases import read_cases
from idgrpo.records.document import read_json
from idgrpo.records.exchange import read_trl, read_videoalign
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Case, Preference, Sample, Vote

PEOPLE = [{"person": "anna", "images": ["a.png"], "second": ["a2.png"]}, {"person": "ben", "images": ["b.png"]}]
CASE = {"id": "case-1", "prompt": "two people walk", "references": PEOPLE, "seed": 3}
SAMPLE = {
    "id": "case-1--s0",
    "case_id": "case-1",
    "prompt": "x",
    "references": PEOPLE,
    "video": "v.mp4",
    "base": "vace",
    "seed": 0,
}
PAIR = {"pair_id": "p1", "case_id": "c1", "prompt": "x", "references": PEOPLE, "video_a": "a.mp4", "video_b": "b.mp4"}
PREFERENCE = PAIR | {
    "label": "a",
    "source": "human",
    "votes": {"a": 2},
    "strength": 0.5,
    "origin": {"by": [1, {"x": None}]},
}
VOTE = {
    "vote_id": "v",
    "pair_id": "p",
    "annotator": "a",
    "answer": "a",
    "shown": "left",
    "a_is_left": True,
    "seconds": 2.5,
    "time_utc": "t",
}
OPENS2V = {"multiface_1": {"img_paths": ["1.png", "2.png"], "prompt": "x", "class_label": ["Man", "Woman"]}}
MULTIHUMAN = [{"people": ["data/1.jpg", "data/2.jpg"], "prompt": "x"}]
# Bits of text that lead parsers astray.
STRANGE = [
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    ";",
    "\n",
    "\r",
    "\0",
    "\\",
    "\\ud800",
    "\\u0000",
    "null",
    "NaN",
    "1e999",
    "-1",
    "9" * 5000,
]
STRANGE += ["[" * 3000, "\ufeff", "\u2028", "../", "/", ".", '"x":', "true", "{}", '""']

FORMATS = {
    "cases.jsonl": (lambda rows: rows(CASE), lambda path: list(read_cases(path))),
    "samples.jsonl": (lambda rows: rows(SAMPLE), lambda path: list(read_records(path, Sample, unique="id"))),
    "prefs.jsonl": (lambda rows: rows(PREFERENCE), lambda path: list(read_records(path, Preference, unique="pair_id"))),
    "votes.jsonl": (lambda rows: rows(VOTE), lambda path: list(read_records(path, Vote))),
    "trl.jsonl": (
        lambda rows: rows({"prompt": "x", "chosen": "a.mp4", "rejected": "b.mp4", "images": ["a.png"]}),
        lambda path: list(read_trl(path, check_files=False)),
    ),
    "cases.csv": (
        lambda rows: 'id,ref_paths,prompt,people,seed\na,a.png;b.png,"two, walk",anna;ben,3\nb,a.png,x,anna,\n',
        lambda path: list(read_cases(path)),
    ),
    "align.csv": (
        lambda rows: "path_A,path_B,prompt,VQ,ref_paths\na.mp4,b.mp4,x,A,a.png;b.png\na.mp4,c.mp4,x,same,a.png\n",
        lambda path: list(read_videoalign(path, dimension="VQ", check_files=False)),
    ),
    "Open_Eval.json": (lambda rows: json.dumps(OPENS2V), lambda path: list(read_cases(path))),
    "multihuman.json": (lambda rows: json.dumps(MULTIHUMAN), lambda path: list(read_cases(path))),
    "policy.json": (
        lambda rows: json.dumps({"base": "vace", "schedule": {"sigmas": [1.0, 0.5]}}),
        lambda path: read_json(path, dict[str, str | dict[str, list[float]]]),
    ),
}  # fmt: skip


def rows(row: dict) -> str:
    key = next(iter(row))
    return "".join(json.dumps(row | {key: f"{row[key]}{number}"}) + "\n" for number in range(3))


def mutants(seed: str, text: str, num: int):
    """Damage a text in `num` ways: strange pieces put in or in place of others, bytes changed, ends torn off, lines doubled."""
    draw = random.Random(seed)
    for _ in range(num):
        bad = bytearray(text.encode())
        for _ in range(draw.choice((1, 1, 2, 5))):
            at = draw.randrange(len(bad) + 1)
            kind = draw.randrange(6)
            if kind <= 1:
                bad[at : at + kind * draw.choice((1, 3, 12))] = draw.choice(STRANGE).encode()
            elif kind == 2:
                bad[at : at + 1] = bytes([draw.randrange(256)])
            elif kind == 3:
                del bad[at : at + draw.choice((1, 5, 40))]
            elif kind == 4:
                bad[at:at] = bad[: draw.choice((10, 100, len(bad)))]
            else:
                bad = bad[:at]
        yield bytes(bad)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_records(tmp_path, name):
    num = 150  # `make test-hostile` makes more of them
    text, read = FORMATS[name]
    path = tmp_path / name
    path.write_text(text(rows))
    assert read(path)
    told = 0
    for content in mutants(name, text(rows), num):
        path.write_bytes(content)
        error = None
        try:
            read(path)
        except IdgrpoError as caught:
            error = caught
        told += error is not None
        assert error is None or str(path) in error.message
    assert 0 < told < num, "some damage is seen, some does not matter"


def test_the_line_that_was_damaged_is_named(tmp_path):
    for line in range(3):
        lines = rows(CASE).splitlines()
        lines[line] = lines[line][:-9]
        (tmp_path / "cases.jsonl").write_text("\n".join(lines))
        with pytest.raises(IdgrpoError, match=rf"cases\.jsonl:{line + 1}: not valid JSON"):
            list(read_records(tmp_path / "cases.jsonl", Case))

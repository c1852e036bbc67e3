import json
import os

import pytest
from pydantic import BaseModel

from idgrpo.errors import DataError
from idgrpo.records.document import read_json


class Inner(BaseModel):
    steps: int


class Shape(BaseModel, extra="forbid"):
    schema_: int = 1
    base: str
    inner: Inner | None = None


def test_a_document_of_the_right_shape(tmp_path):
    (tmp_path / "policy.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps({"base": "vace", "inner": {"steps": 4}}).encode()
    )
    assert read_json(tmp_path / "policy.json", Shape) == Shape(base="vace", inner=Inner(steps=4))
    assert read_json(tmp_path / "policy.json", dict[str, str | dict[str, int]])["base"] == "vace"


@pytest.mark.parametrize(
    "content, problem",
    [
        (b'\xef\xbb\xbf{"base": ["tiny"]}', "field 'base': input should be a valid string"),
        (b'{"base": "x", "inner": {"steps": "many"}}', "field 'inner.steps': input should be a valid integer"),
        (b'{"bese": "x"}', "field 'bese': unknown (did you mean 'base'?)"),
        (b"[1]", "input should be a valid dictionary"),
        (b"null", "input should be a valid dictionary"),
        (b"", "not valid JSON: EOF"),
        (b'{"base": "x"', "not valid JSON: EOF while parsing an object at line 1 column 12"),
        (b'{"base": NaN}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON: recursion limit exceeded"),
        (b'{"base": "caf\xe9"}', "not UTF-8 text (invalid continuation byte at byte 14)"),
        ('{"base": "x"}'.encode("utf-16"), "not UTF-8 text"),
        (b'{"base": "\\ud800"}', "not valid JSON"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, problem):
    (tmp_path / "policy.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(tmp_path / "policy.json", Shape)
    assert f"policy.json: {problem}" in caught.value.message


def test_files_that_cannot_be_read_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe", "a\0b"):
        with pytest.raises(DataError):
            read_json(path, Shape)


def test_a_document_that_is_far_too_large(tmp_path):
    with (tmp_path / "sparse.json").open("wb") as file:
        file.truncate(300 * 2**20)
    with pytest.raises(DataError, match=r"sparse\.json: a document of 300 MiB; at most 256"):
        read_json(tmp_path / "sparse.json", Shape)

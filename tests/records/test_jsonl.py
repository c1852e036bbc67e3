import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idgrpo.errors import DataError
from idgrpo.records.cases import read_cases
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Case, Preference, Reference

PREFERENCE = {
    "pair_id": "p1", "case_id": "c1", "prompt": "two people", "references": [{"person": "a", "images": ["a.png"]}],
    "video_a": "v/a.mp4", "video_b": "v/b.mp4", "label": "a", "source": "human",
}  # fmt: skip


def lines(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_paths_follow_the_file(tmp_path):
    path = lines(tmp_path / "in" / "prefs.jsonl" if (tmp_path / "in").mkdir() is None else None, [PREFERENCE])
    record = next(read_records(path, Preference))
    assert record.video_a == str(tmp_path / "in" / "v" / "a.mp4")
    assert record.references[0].images == [str(tmp_path / "in" / "a.png")]
    other = tmp_path / "out" / "prefs.jsonl"
    assert write_records(other, [record]) == 1
    assert json.loads(other.read_text())["video_a"] == "../in/v/a.mp4"
    assert next(read_records(other, Preference)) == record


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"label": "left"},
            r"prefs.jsonl:3: field 'label': 'left' is not known \(known: 'a', 'b', 'tie' or 'both_bad'\)",
        ),
        ({"lable": "a"}, r"prefs.jsonl:3: field 'lable': unknown \(did you mean 'label'\?\)"),
        ({"strength": 2}, r"prefs.jsonl:3: field 'strength'"),
        ({"references": "x"}, r"prefs.jsonl:3: field 'references'"),
    ],
)
def test_a_bad_third_line_is_named_with_file_line_and_field(tmp_path, change, expected):
    path = lines(
        tmp_path / "prefs.jsonl", [{**PREFERENCE, "pair_id": str(i), **(change if i == 2 else {})} for i in range(4)]
    )
    with pytest.raises(DataError, match=expected):
        list(read_records(path, Preference))


def test_broken_json_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"a.jsonl:2: not valid JSON"):
        list(read_records(lines(tmp_path / "a.jsonl", [PREFERENCE, "{"]), Preference))
    with pytest.raises(DataError, match="no such file"):
        list(read_records(tmp_path / "none.jsonl", Preference))
    with pytest.raises(DataError, match="folder"):
        list(read_records(tmp_path, Preference))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="UTF-8"):
        list(read_records(tmp_path / "b.jsonl", Preference))


def test_the_first_twenty_errors_come_together(tmp_path):
    path = lines(tmp_path / "prefs.jsonl", [{**PREFERENCE, "label": "x"}] * 50)
    with pytest.raises(DataError) as caught:
        list(read_records(path, Preference))
    assert caught.value.message.count("field 'label'") == 20
    assert "first 20" in caught.value.message
    assert caught.value.exit_code == 3


def test_invalid_lines_can_be_put_aside_and_duplicates_are_found(tmp_path):
    path = lines(tmp_path / "prefs.jsonl", [PREFERENCE, {**PREFERENCE, "label": "x"}, PREFERENCE])
    rejected = []
    found = list(read_records(path, Preference, unique="pair_id", skip_invalid=rejected.append))
    assert len(found) == 1
    assert [item.line for item in rejected] == [2, 3]
    with pytest.raises(DataError, match="'p1' stands already in line 1"):
        list(read_records(lines(path, [PREFERENCE, PREFERENCE]), Preference, unique="pair_id"))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "cases.jsonl"
    case = Case(id="1", prompt="x", references=[Reference(person="a", images=["/a.png"])])
    write_records(path, [case])

    def broken():
        yield case
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError):
        write_records(path, broken())
    assert len(list(read_records(path, Case))) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["cases.jsonl"]


def test_csv_cases(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("ref_paths,prompt\na.png;b.png,two people walk\n")
    case = next(read_cases(path))
    assert [r.images for r in case.references] == [[str(tmp_path / "a.png")], [str(tmp_path / "b.png")]]
    path.write_text("refs,prompt\na.png,x\n")
    with pytest.raises(DataError, match="ref_paths"):
        list(read_cases(path))
    path.write_text("ref_paths,prompt\na.png,x\n,y\n")
    with pytest.raises(DataError, match=r"cases.csv:3"):
        list(read_cases(path))


def test_an_unknown_field_inside_a_reference_gets_the_nearest_of_the_reference(tmp_path):
    inside = {"persn": "a", "images": ["a.png"]}
    path = lines(tmp_path / "prefs.jsonl", [{**PREFERENCE, "references": [inside]}])
    with pytest.raises(DataError, match=r"field 'references\.0\.persn': unknown \(did you mean 'person'\?\)"):
        list(read_records(path, Preference))


def test_text_that_is_no_utf8_is_named_by_line_and_can_be_put_aside(tmp_path):
    path = tmp_path / "prefs.jsonl"
    good = json.dumps(PREFERENCE).encode()
    path.write_bytes(good + b'\n{"pair_id": "caf\xe9"}\r\n' + good + b"\n")
    with pytest.raises(DataError, match=r"prefs\.jsonl:2: not UTF-8 text \(.* at byte 17 of the line\)"):
        list(read_records(path, Preference))
    rejected = []
    assert len(list(read_records(path, Preference, skip_invalid=rejected.append))) == 2
    assert [(item.line, item.text) for item in rejected] == [(2, '{"pair_id": "caf\ufffd"}')]


def test_a_byte_order_mark_is_no_error(tmp_path):
    path = tmp_path / "prefs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PREFERENCE).encode())
    assert len(list(read_records(path, Preference))) == 1
    (tmp_path / "cases.csv").write_bytes(b"\xef\xbb\xbfref_paths,prompt\na.png,x\n")
    assert len(list(read_cases(tmp_path / "cases.csv"))) == 1


def test_rows_of_csv_are_named_by_the_line_they_begin_in_and_all_at_once(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_bytes(
        b'ref_paths,prompt\na.png,"two\nlines"\n\n,empty\nb.png,too, many\nc.png,"in\nquotes"\nd.png,caf\xe9\ne.png,\n'
    )
    with pytest.raises(DataError) as caught:
        list(read_cases(path))
    told = [line.removeprefix(f"{path}:") for line in caught.value.message.splitlines()]
    assert [int(line.partition(":")[0]) for line in told] == [5, 6, 9, 10]
    assert "ref_paths must not be empty" in told[0] and "3 columns instead of 2" in told[1]
    assert "not UTF-8" in told[2] and "prompt must not be empty" in told[3]
    path.write_text("ref_paths,prompt\n" + "a.png,\n" * 30)
    with pytest.raises(DataError) as caught:
        list(read_cases(path))
    assert caught.value.message.count("must not be empty") == 20 and "first 20" in caught.value.message
    path.write_text('ref_paths,prompt\na.png,"never closed\n')
    with pytest.raises(DataError, match=r"cases\.csv:2: not valid CSV"):
        list(read_cases(path))
    path.write_text("")
    with pytest.raises(DataError, match="column prompt, ref_paths is missing"):
        list(read_cases(path))


def test_writers_at_once_leave_one_whole_file(tmp_path):
    path = tmp_path / "cases.jsonl"
    reference = Reference(person="a", images=["/a.png"])

    def write(number):
        write_records(path, (Case(id=f"{number}-{k}", prompt="x", references=[reference]) for k in range(50)))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [case.id for case in read_records(path, Case, unique="id")]
    assert len(found) == 50 and len({case_id.partition("-")[0] for case_id in found}) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["cases.jsonl"]


@given(
    st.text(min_size=1),
    st.lists(
        st.text(min_size=1, alphabet=st.characters(exclude_characters="/\x00", exclude_categories=["Cs"])),
        min_size=1,
        max_size=3,
    ),
)
def test_any_text_survives_a_round_trip(tmp_path_factory, prompt, images):
    folder = tmp_path_factory.mktemp("r")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in prompt):
        return
    record = Case(
        id="x",
        prompt=prompt,
        references=[
            Reference(
                person="p",
                images=[f"/pictures/{image}/x.png" for image in images if image not in (".", "..")] or ["/p.png"],
            )
        ],
    )
    write_records(folder / "c.jsonl", [record])
    assert next(read_records(folder / "c.jsonl", Case)) == record

"""Cases from every layout: one id is one case, one photo is one person, and what is wrong is named by line or entry."""

import json
import logging

import pytest
from PIL import Image

from idgrpo.errors import DataError
from idgrpo.records.cases import read_cases
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Case, id_problem


def photos(folder, *names):
    """Write a different photo for each name."""
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (40 * index, sum(name.encode()) % 256, 90)).save(path)


def people_of(cases):
    return [[reference.person for reference in case.references] for case in cases]


def told(path):
    """Read cases that are wrong, and give the message."""
    with pytest.raises(DataError) as caught:
        list(read_cases(path))
    assert caught.value.exit_code == 3
    return caught.value.message


class TestIds:
    BAD = [
        "",
        "  ",
        ".",
        "..",
        ".hidden",
        " a",
        "a ",
        "a/b",
        "a\\b",
        "a\nb",
        "a\x00b",
        "a\x7fb",
        "a\u0085b",
        "a\u2028b",
    ]
    BAD += ["x" * 121, "\u00fc" * 61]
    GOOD = ["a", "x" * 120, "\u00fc" * 60, "a.b", "a b", "a--s1", "\u4e8c\u4eba", "a:b", "CON"]

    @pytest.mark.parametrize("bad", BAD)
    def test_one_rule_for_json_lines_and_csv(self, tmp_path, bad):
        reference = {"person": "a", "images": ["a.png"]}
        lines = [{"id": name, "prompt": "x", "references": [reference]} for name in ("fine", bad)]
        (tmp_path / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert "cases.jsonl:2: field 'id': " in told(tmp_path / "cases.jsonl")
        if bad.strip() == bad and "\n" not in bad:  # cells are trimmed, and may hold line breaks
            (tmp_path / "cases.csv").write_text(f"id,ref_paths,prompt\nfine,a.png,x\n{bad},a.png,x\n", newline="")
            assert "cases.csv:3: column id: " in told(tmp_path / "cases.csv")

    @pytest.mark.parametrize("good", GOOD)
    def test_other_ids_are_carried(self, tmp_path, good):
        assert id_problem(good) is None
        (tmp_path / "cases.csv").write_text(f"id,ref_paths,prompt\n{good},a.png,x\n")
        (case,) = read_cases(tmp_path / "cases.csv")
        write_records(tmp_path / "cases.jsonl", [case])
        assert [case.id for case in read_cases(tmp_path / "cases.jsonl")] == [good]

    def test_twice_the_same_id_is_named_by_line(self, tmp_path):
        (tmp_path / "cases.csv").write_text("id,ref_paths,prompt\na,a.png,x\nb,a.png,x\na,a.png,y\n")
        assert "cases.csv:4: field 'id': 'a' stands already in line 2" in told(tmp_path / "cases.csv")

    @pytest.mark.parametrize("name", [".hidden.csv", "x" * 119 + ".csv"])
    def test_a_file_whose_name_is_no_id(self, tmp_path, name):
        (tmp_path / name).write_text("ref_paths,prompt\na.png,x\n")
        assert [case.id for case in read_cases(tmp_path / name)] == ["case-0000"]

    @pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "x"])
    def test_seeds_out_of_range(self, tmp_path, seed):
        line = {"id": "a", "prompt": "x", "references": [{"person": "a", "images": ["a.png"]}], "seed": seed}
        (tmp_path / "cases.jsonl").write_text(json.dumps(line))
        assert "field 'seed'" in told(tmp_path / "cases.jsonl")
        (tmp_path / "cases.csv").write_text(f"ref_paths,prompt,seed\na.png,x,{seed}\n")
        assert "cases.csv:2: column seed" in told(tmp_path / "cases.csv")


class TestWhoIsWho:
    def test_the_same_photo_in_many_rows_is_one_person(self, tmp_path):
        photos(tmp_path, "a.png", "b.png")
        (tmp_path / "copy of a.png").write_bytes((tmp_path / "a.png").read_bytes())
        rows = ["a.png;b.png,one", "b.png;./a.png,two", "copy of a.png,three"]
        (tmp_path / "cases.csv").write_text("ref_paths,prompt\n" + "\n".join(rows))
        (a, b), again, copy = people_of(read_cases(tmp_path / "cases.csv"))
        assert a != b and again == [b, a] and copy == [a]

    def test_the_same_photo_in_another_file_is_the_same_person(self, tmp_path):
        photos(tmp_path, "here/a.png", "here/b.png")
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "x.png").write_bytes((tmp_path / "here" / "a.png").read_bytes())
        (tmp_path / "here" / "train.csv").write_text("ref_paths,prompt\na.png,x\nb.png,x\n")
        (tmp_path / "there" / "test.csv").write_text("ref_paths,prompt\nx.png,y\n")
        train, test = (people_of(read_cases(tmp_path / name)) for name in ("here/train.csv", "there/test.csv"))
        assert test[0] == train[0] != train[1]

    def test_photos_that_are_not_there_differ_by_path(self, tmp_path):
        (tmp_path / "cases.csv").write_text("ref_paths,prompt\na.png;b.png,x\na.png,y\n")
        (a, b), (again,) = people_of(read_cases(tmp_path / "cases.csv"))
        assert a == again != b

    def test_people_have_the_names_that_are_given(self, tmp_path):
        photos(tmp_path, "1.png", "2.png", "3.png")
        rows = ["1.png;2.png,x,anna; ben,7", "3.png,y,anna,"]
        (tmp_path / "cases.csv").write_text("ref_paths,prompt,people,seed\n" + "\n".join(rows))
        cases = list(read_cases(tmp_path / "cases.csv"))
        assert people_of(cases) == [["anna", "ben"], ["anna"]] and [case.seed for case in cases] == [7, None]

    @pytest.mark.parametrize(
        "row, problem",
        [
            ("a.png;b.png,x,anna", r"column people: 2 paths need 2 names"),
            ("a.png;b.png,x,anna;", r"column people: 2 paths need 2 names"),
            ("a.png;b.png,x,anna;anna", r"field 'references.1.person': 'anna' stands twice in one case"),
            ("a.png;copy.png,x,anna;ben", r"copy.png is the photo of 'anna' in this case, so it cannot be 'ben' too"),
            ("a.png;copy.png,x,", r"a.png and copy.png are the same photo"),
        ],
    )
    def test_contradictions_in_a_row(self, tmp_path, row, problem):
        photos(tmp_path, "a.png", "b.png")
        (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
        (tmp_path / "cases.csv").write_text(f"ref_paths,prompt,people\n{row}\n")
        message = told(tmp_path / "cases.csv")
        assert "cases.csv:2: " in message and problem in message

    @pytest.mark.parametrize("second", ["a.png", "copy.png"])
    def test_one_photo_under_two_names_is_refused_in_json_lines(self, tmp_path, second):
        photos(tmp_path, "a.png")
        (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
        lines = [
            {"id": name, "prompt": "x", "references": [{"person": name, "images": [image]}]}
            for name, image in (("anna", "a.png"), ("ben", second))
        ]
        (tmp_path / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert "cases.jsonl:2: " in told(tmp_path / "cases.jsonl")
        assert "is the photo of 'anna' in line 1" in told(tmp_path / "cases.jsonl")

    def test_a_column_that_is_nearly_one_of_ours(self, tmp_path):
        (tmp_path / "cases.csv").write_text("ref_paths,prompt,poeple\na.png,x,anna\n")
        assert "cases.csv:1: column poeple: did you mean people?" in told(tmp_path / "cases.csv")
        (tmp_path / "cases.csv").write_text("ref_paths,prompt,prompt\na.png,x,y\n")
        assert "column prompt stands twice" in told(tmp_path / "cases.csv")
        (tmp_path / "cases.csv").write_text("ref_paths,prompt,camera\na.png,x,left\n")
        assert len(list(read_cases(tmp_path / "cases.csv"))) == 1, "columns of others are left alone"


class TestFolders:
    def test_a_sub_folder_for_each_person(self, tmp_path):
        photos(tmp_path, "anna/1.png", "anna/2.jpg", "ben/z.webp", ".cache/x.png")
        (tmp_path / "anna" / "notes.txt").write_text("not a photo")
        (tmp_path / "prompts.txt").write_bytes("\ufefftwo people walk\n\n  they dance \n".encode())
        cases = list(read_cases(tmp_path))
        assert [case.prompt for case in cases] == ["two people walk", "they dance"]
        assert [case.id for case in cases] == [f"{tmp_path.name}-0000", f"{tmp_path.name}-0001"]
        anna, ben = cases[0].references
        assert (anna.person, anna.images, anna.second) == (
            "anna", [str(tmp_path / "anna/1.png")], [str(tmp_path / "anna/2.jpg")]
        )  # fmt: skip
        assert (ben.person, ben.second) == ("ben", []) and cases[1].references == cases[0].references

    def test_prompts_may_choose_people(self, tmp_path):
        photos(tmp_path, "anna/1.png", "ben/1.png", "cleo/1.png")
        lines = [{"prompt": "x", "people": ["cleo", "anna"], "id": "first", "seed": 3}, {"prompt": "y"}]
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        first, second = read_cases(tmp_path)
        assert (first.id, first.seed, [r.person for r in first.references]) == ("first", 3, ["cleo", "anna"])
        assert [r.person for r in second.references] == ["anna", "ben", "cleo"]

    def test_what_is_wrong_is_named_by_line(self, tmp_path):
        photos(tmp_path, "anna/1.png", "ben/1.png")
        lines = [{"prompt": "x", "people": ["Anna"]}, {"prompt": ""}, {"prompt": "x", "id": ".."}, {"promt": "x"}]
        lines += [{"prompt": "x", "people": ["ben", "ben"]}, {"prompt": "x", "people": []}]
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        message = told(tmp_path)
        assert "prompts.jsonl:1: field 'people': nobody is called 'Anna' (did you mean 'anna'?)" in message
        assert [f"prompts.jsonl:{line}: " in message for line in (2, 3, 4, 6)] == [True] * 4
        assert "did you mean 'prompt'?" in message
        (tmp_path / "prompts.jsonl").write_text(json.dumps(lines[4]))
        assert "prompts.jsonl:1: field 'references.1.person': 'ben' stands twice" in told(tmp_path)

    def test_what_is_missing_is_named(self, tmp_path):
        assert "neither prompts.txt and prompts.jsonl there" in told(tmp_path)
        (tmp_path / "prompts.txt").write_text("x\n")
        assert "no people in it" in told(tmp_path)
        (tmp_path / "anna").mkdir()
        assert "anna: no photos in it" in told(tmp_path)
        (tmp_path / "anna" / "1.heic").touch()
        assert "1.heic: .heic pictures are not read" in told(tmp_path)
        (tmp_path / "prompts.jsonl").write_text("{}")
        assert "both prompts.txt and prompts.jsonl" in told(tmp_path)

    def test_one_photo_in_two_folders_is_refused(self, tmp_path):
        photos(tmp_path, "anna/1.png")
        (tmp_path / "ben").mkdir()
        (tmp_path / "ben" / "other.png").write_bytes((tmp_path / "anna" / "1.png").read_bytes())
        (tmp_path / "prompts.txt").write_text("x\n")
        assert "is the photo of 'anna'" in told(tmp_path)

    def test_a_copy_of_the_first_photo_is_no_second_one(self, tmp_path):
        photos(tmp_path, "anna/1.png")
        (tmp_path / "anna" / "2.png").write_bytes((tmp_path / "anna" / "1.png").read_bytes())
        (tmp_path / "prompts.txt").write_text("x\n")
        assert next(read_cases(tmp_path)).references[0].second == []

    def test_the_folder_of_an_artifact(self, tmp_path):
        photos(tmp_path, "a.png", "references/b.png")
        case = {"id": "a", "prompt": "x", "references": [{"person": "a", "images": ["a.png"]}]}
        (tmp_path / "cases.jsonl").write_text(json.dumps(case))
        assert [case.id for case in read_cases(tmp_path)] == ["a"]


OPENS2V = {
    "singlehuman_1": {
        "img_paths": ["Images/man/1.png"],
        "prompt": "a man",
        "class_label": ["Man"],
        "synthesis_flag": "wrong",
    },
    "multiface_2": {
        "img_paths": ["Images/man/1.png", "Images/woman/2.png", "Images/room/3.png"],
        "prompt": "a man and a woman",
        "class_label": ["Man", "Woman", "Livingroom"],
    },
    "singleobj_1": {"img_paths": ["Images/cup/4.png"], "prompt": "a cup", "class_label": ["Cup"]},
}
MULTIHUMAN = [
    {"people": ["data/faces/a.jpg"], "prompt": "one runs", "attributes": [[2, 5, 2]], "pose_image": "data/poses/0.png"},
    {"people": ["data/faces/a.jpg", "data/faces/b.jpg"], "prompt": "two run", "identifier": ["man", "woman"]},
]


class TestPublishedLayouts:
    def test_opens2v_eval(self, tmp_path, caplog):
        photos(tmp_path, "Images/man/1.png", "Images/woman/2.png")
        (tmp_path / "Open-Domain_Eval.json").write_text(json.dumps(OPENS2V))
        with caplog.at_level(logging.WARNING):
            one, two = read_cases(tmp_path / "Open-Domain_Eval.json")
        assert (one.id, one.prompt, two.id) == ("singlehuman_1", "a man", "multiface_2")
        assert two.references[0] == one.references[0]
        assert [r.images[0] for r in two.references] == [
            str(tmp_path / "Images" / p) for p in ("man/1.png", "woman/2.png")
        ]
        assert "1 entries without people are left out; 1 pictures of things and places" in caplog.text

    @pytest.mark.parametrize(
        "change, problem",
        [
            ({"prompt": ""}, "entry 'singlehuman_1': field 'prompt'"),
            ({"class_label": ["Man", "Man"]}, "entry 'singlehuman_1': field 'class_label': 2 labels for 1 pictures"),
            ({"class_label": None}, "entry 'singlehuman_1': field 'class_label'"),
            ({"img_paths": []}, "entry 'singlehuman_1': field 'img_paths'"),
            ({"img_paths": ["a\0.png"]}, "entry 'singlehuman_1': field 'img_paths.0': not the name of a file"),
        ],
    )
    def test_wrong_entries_of_opens2v_are_named(self, tmp_path, change, problem):
        document = OPENS2V | {"singlehuman_1": OPENS2V["singlehuman_1"] | change}
        (tmp_path / "x.json").write_text(json.dumps(document))
        assert f"x.json: {problem}" in told(tmp_path / "x.json")

    def test_opens2v_without_people(self, tmp_path):
        (tmp_path / "x.json").write_text(json.dumps({"singleobj_1": OPENS2V["singleobj_1"]}))
        assert "none of its 1 entries shows people" in told(tmp_path / "x.json")
        (tmp_path / "x.json").write_text(json.dumps({"..": OPENS2V["singlehuman_1"]}))
        assert "entry '..': the id '..' must not begin with a dot" in told(tmp_path / "x.json")

    @pytest.mark.parametrize("where", ["data/multihuman_metadata.json", "multihuman_metadata.json"])
    def test_multihuman_testbench(self, tmp_path, where):
        photos(tmp_path, "data/faces/a.jpg", "data/faces/b.jpg")
        (tmp_path / where).write_text(json.dumps(MULTIHUMAN))
        one, two = read_cases(tmp_path / where)
        assert (one.id, two.id, two.prompt) == ("multihuman-0000", "multihuman-0001", "two run")
        assert two.references[0] == one.references[0]
        assert two.references[1].images == [str(tmp_path / "data/faces/b.jpg")]

    def test_wrong_entries_of_multihuman_are_named(self, tmp_path):
        document = [*MULTIHUMAN, {"people": "data/faces/a.jpg", "prompt": "x"}, {"people": ["b.jpg"], "prompt": ""}]
        (tmp_path / "x.json").write_text(json.dumps(document))
        message = told(tmp_path / "x.json")
        assert "x.json: entry '2': field 'people'" in message and "x.json: entry '3': field 'prompt'" in message

    def test_a_list_of_cases_and_json_lines_under_the_ending_json(self, tmp_path):
        case = {"id": "a", "prompt": "x", "references": [{"person": "a", "images": ["a.png"]}]}
        for text in (
            json.dumps([case, case | {"id": "b"}]),
            "".join(json.dumps(case | {"id": n}) + "\n" for n in "ab"),
        ):
            (tmp_path / "cases.json").write_text(text)
            found = list(read_cases(tmp_path / "cases.json"))
            assert [case.id for case in found] == ["a", "b"]
            assert found[0].references[0].images == [str(tmp_path / "a.png")]
        (tmp_path / "cases.json").write_text(json.dumps([case, case]))
        assert "cases.json: entry '1': field 'id': 'a' stands already in entry '0'" in told(tmp_path / "cases.json")

    @pytest.mark.parametrize("text", ["3", "[1]", '{"a": 1}', '{"a": {"prompt": "x"}}', '[{"prompt": "x"}]', "null"])
    def test_other_documents_are_refused_with_what_is_known(self, tmp_path, text):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match=r"x\.json: no known layout of cases") as caught:
            list(read_cases(tmp_path / "x.json"))
        assert "OpenS2V-Eval" in caught.value.fix

    @pytest.mark.parametrize("text", ["", "{", "[" * 5000, '{"a": NaN}'])
    def test_broken_documents(self, tmp_path, text):
        (tmp_path / "x.json").write_text(text)
        assert "x.json: " in told(tmp_path / "x.json")


def test_records_name_all_their_paths(tmp_path):
    from idgrpo.records.exchange import TrlRow
    from idgrpo.records.models import Preference, Sample

    people = [{"person": "a", "images": ["1.png", "2.png"], "second": ["3.png"]}, {"person": "b", "images": ["1.png"]}]
    case = Case.model_validate({"id": "c", "prompt": "x", "references": people})
    assert list(case.media_paths()) == ["1.png", "2.png", "3.png", "1.png"]
    sample = Sample(id="s", case_id="c", prompt="x", references=case.references, video="v.mp4", base="b", seed=0)
    assert sorted(set(sample.media_paths())) == ["1.png", "2.png", "3.png", "v.mp4"]
    assert ("references.0.second.0", "3.png") in list(sample.paths_by_field())
    pair = {"pair_id": "p", "case_id": "c", "prompt": "x", "references": people, "video_a": "a.mp4", "video_b": "b.mp4"}
    preference = Preference.model_validate({**pair, "label": "a", "source": "human"})
    assert {"a.mp4", "b.mp4", "3.png"} < set(preference.media_paths())
    carried = {k: v for k, v in preference.model_dump().items() if k not in ("prompt", "video_a", "video_b")}
    row = TrlRow.model_validate({"prompt": "x", "chosen": "a.mp4", "rejected": "b.mp4", "idgrpo": json.dumps(carried)})
    moved = row.resolved(tmp_path)
    assert set(moved.media_paths()) == {str(tmp_path / name) for name in ("a.mp4", "b.mp4", "1.png", "2.png", "3.png")}


@pytest.mark.parametrize("path", ["", "  ", "a\0b.png"])
def test_what_is_no_path_is_refused_by_field(tmp_path, path):
    line = {"id": "a", "prompt": "x", "references": [{"person": "a", "images": ["a.png", path]}]}
    (tmp_path / "cases.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataError, match=r"cases\.jsonl:1: field 'references\.0\.images\.1': not the name of a file"):
        list(read_records(tmp_path / "cases.jsonl", Case))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_are_finite(tmp_path, number):
    from idgrpo.records.models import Preference, Vote

    vote = '{"vote_id":"v","pair_id":"p","annotator":"a","answer":"a","shown":"left","a_is_left":true,"time_utc":"t",'
    (tmp_path / "votes.jsonl").write_text(vote + f'"seconds":{number}}}')
    with pytest.raises(DataError, match=r"votes\.jsonl:1: "):
        list(read_records(tmp_path / "votes.jsonl", Vote))
    pair = '{"pair_id":"p","case_id":"c","prompt":"x","references":[],"video_a":"a","video_b":"b","label":"a","source":"human",'
    (tmp_path / "prefs.jsonl").write_text(pair + f'"origin":{{"x":[{number}]}}}}')
    with pytest.raises(DataError, match=r"prefs\.jsonl:1: "):
        list(read_records(tmp_path / "prefs.jsonl", Preference))

"""Noise is seen: labels of one vote or of a split, agreement at chance, votes that contradict themselves."""

import json
import random

import pytest

from idgrpo.annotate.config import AnnotateConfig
from idgrpo.annotate.doubts import vote_check
from idgrpo.annotate.sides import meant_to_shown
from idgrpo.annotate.stage import conclude, summary_lines
from idgrpo.errors import DataError
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Vote

NUM = 24


def cast(pair, who, answer, **changes):
    fields = {
        "vote_id": f"{pair}-{who}", "pair_id": pair, "annotator": who, "answer": answer, "a_is_left": True,
        "shown": meant_to_shown(answer, True), "seconds": 8.0, "time_utc": "2026-01-31T12:00:00+00:00",
    }  # fmt: skip
    return Vote(**fields | changes)


def ended(tmp_path, make_pair, answers, **aggregate):
    """Conclude with one list of answers a pair."""
    pairs = [make_pair(f"p{number}") for number in range(len(answers))]
    votes = [
        cast(pair.pair_id, f"ann-{place}", answer)
        for pair, given in zip(pairs, answers, strict=True)
        for place, answer in enumerate(given)
    ]
    config = AnnotateConfig.model_validate({"aggregate": {"method": "majority", **aggregate}})
    return conclude(pairs, votes, config, tmp_path)


def test_clear_votes_raise_no_doubt(tmp_path, make_pair):
    facts = ended(tmp_path, make_pair, [["a"] * 3, ["b"] * 3] * (NUM // 2))
    assert "doubts" not in facts
    assert json.loads((tmp_path / "agreement.json").read_text())["doubts"] == []


def test_labels_of_one_vote_and_of_a_split_are_told(tmp_path, make_pair):
    facts = ended(tmp_path, make_pair, [["a"], ["a", "b"], ["b", "b"], ["a", "a"]])
    said = "\n".join(facts["doubts"])
    assert "1 of 4 preferences rest on one vote" in said and "aggregate.min_votes=2" in said
    assert "1 of 4 preferences come from votes that are split evenly" in said
    assert any(line.startswith("warning: 1 of 4") for line in summary_lines(facts, "x"))
    assert "rest on one vote" in (tmp_path / "agreement.html").read_text()
    facts = ended(tmp_path, make_pair, [["a"], ["a", "b"], ["b", "b"], ["a", "a"]], min_votes=2, min_confidence=0.6)
    assert facts["preferences"] == 2 and "split" not in str(facts.get("doubts"))


def test_nobody_can_tell_where_nobody_was_asked_twice(tmp_path, make_pair):
    assert any("no pair was answered by two" in doubt for doubt in ended(tmp_path, make_pair, [["a"]] * 5)["doubts"])


def test_votes_at_chance_are_not_published_unless_asked_for(tmp_path, make_pair):
    against = [["a", "b"], ["b", "a"]] * (NUM // 2)
    with pytest.raises(DataError, match=r"no better than chance: Krippendorff's alpha is -0\.\d+ on 24 pairs") as told:
        ended(tmp_path, make_pair, against)
    assert "aggregate.min_alpha=-1" in told.value.fix
    assert ended(tmp_path, make_pair, against, min_alpha=-1)["preferences"] == NUM
    assert ended(tmp_path, make_pair, against[:6])["doubts"], "six pairs are too few to refuse, not too few to warn"


def test_random_votes_are_never_silent(tmp_path, make_pair):
    for seed in range(20):
        draw = random.Random(seed)
        answers = [[draw.choice("ab") for _ in range(3)] for _ in range(NUM)]
        facts = ended(tmp_path, make_pair, answers, min_alpha=-1)
        assert any("alpha" in doubt for doubt in facts["doubts"])


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"shown": "right"}, "field 'answer': 'a' contradicts shown 'right' with clip a on the left"),
        ({"seconds": -1.0}, "field 'seconds': -1 is not between"),
        ({"seconds": 1e7}, "field 'seconds': 1e\\+07 is not between"),
        ({"time_utc": "yesterday"}, "field 'time_utc': 'yesterday' is no time"),
        ({"time_utc": "2999-01-01T00:00:00+00:00"}, "in the future"),
        ({"vote_id": "p0-x", "answer": "b", "shown": "right"}, "'p0-x' stands in line 1 with different contents"),
        (
            {"pair_id": "p0", "annotator": "x", "answer": "b", "shown": "right"},
            "'x' answers 'b' about 'p0', and 'a' in line 1",
        ),
    ],
)
def test_impossible_votes_are_named_by_line(tmp_path, changes, says):
    file = tmp_path / "votes.jsonl"
    write_records(file, [cast("p0", "x", "a"), cast("p1", "y", "b"), cast("p2", "z", "a").model_copy(update=changes)])
    with pytest.raises(DataError, match=rf"votes\.jsonl:3: .*{says}"):
        list(read_records(file, Vote, check=vote_check()))


def test_repeats_and_skips_contradict_nobody(tmp_path):
    file = tmp_path / "votes.jsonl"
    again = cast("p0", "x", "b", kind="repeat", vote_id="again")
    skipped = cast("p0", "x", "skip", vote_id="skipped", shown="skip")
    write_records(file, [cast("p0", "x", "a"), again, skipped])
    assert len(list(read_records(file, Vote, check=vote_check()))) == 3

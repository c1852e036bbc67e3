"""Who is wrong in each clip: from votes to preferences, to agreement, through the server and old sessions."""

import json
import sqlite3
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.annotate.live import Client, start_server

from idgrpo.annotate.config import AgreementConfig, AnnotateConfig, AnnotatorConfig, OracleConfig
from idgrpo.annotate.oracle import simulate_votes
from idgrpo.annotate.people import PeopleTally
from idgrpo.annotate.schema import SCHEMA_VERSION, TABLES, open_database
from idgrpo.annotate.stage import conclude, summary_lines
from idgrpo.errors import DataError
from idgrpo.records.exchange import read_trl, write_trl
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Preference, Vote
from idgrpo.store.store import Store

KEPT = {"a": ["kept", "kept"], "b": ["kept", "changed"]}
OTHER = {"a": ["kept", "mixed"], "b": [None, "missing"]}


def said(vote: Vote, people) -> Vote:
    return vote.model_copy(update={"people": people})


def test_the_fate_most_voted_for_counts_and_a_shared_first_place_says_nothing(make_vote):
    plain = [said(make_vote("p", who, "a"), people) for who, people in (("x", KEPT), ("y", KEPT), ("z", OTHER))]
    ignored = [
        plain[0],  # delivered twice
        said(make_vote("p", "x", "b", kind="repeat"), OTHER),
        said(make_vote("p", "w", "skip"), OTHER),
        said(make_vote("g", "x", "a", kind="gold"), OTHER),
        make_vote("p", "v", "a"),  # was not asked, or left it open
    ]
    tally = PeopleTally()
    assert len(list(tally.watch([*plain, *ignored]))) == 8
    assert tally.of("p") == KEPT and tally.of("g") is None and tally.of("nobody") is None
    assert tally.counts().sum() == 11  # z left one open
    tally = PeopleTally()
    list(tally.watch([plain[0], plain[2]]))
    assert tally.of("p") == {"a": ["kept", None], "b": ["kept", None]}


def test_preferences_and_report_carry_it(tmp_path, make_pair, make_vote):
    pairs = [make_pair(f"p{i}") for i in range(6)]
    votes = [said(make_vote(pair.pair_id, who, "a"), KEPT) for pair in pairs[:4] for who in "xyz"]
    votes += [make_vote(pair.pair_id, who, "b") for pair in pairs[4:] for who in "xyz"]
    facts = conclude(pairs, iter(votes), AnnotateConfig(agreement=AgreementConfig(num_resamples=100)), tmp_path)
    found = list(read_records(tmp_path / "prefs.jsonl", Preference))
    assert [p.people for p in found] == [KEPT] * 4 + [None] * 2
    report = json.loads((tmp_path / "agreement.json").read_text())["people"]
    assert report["num_asked"] == 16 and report["num_answers"] == 48
    assert report["krippendorff_alpha"]["value"] == pytest.approx(1.0)
    assert report["fate_shares"] == {"kept": 0.75, "changed": 0.25, "mixed": 0.0, "missing": 0.0}
    assert "Who is wrong" in (tmp_path / "agreement.html").read_text()
    assert any(line.startswith("who is wrong        48 answers: kept 75%") for line in summary_lines(facts, "x"))


def test_without_the_question_nothing_is_said_of_it(tmp_path, make_pair, make_vote):
    facts = conclude([make_pair("p")], [make_vote("p", who, "a") for who in "xy"], AnnotateConfig(), tmp_path)
    assert "people" not in facts and "Who is wrong" not in (tmp_path / "agreement.html").read_text()


def test_alpha_falls_when_annotators_answer_at_random(make_pair):
    def alpha(skill: float) -> float:
        config = OracleConfig(annotator=AnnotatorConfig(skill=skill, noise=0), repeat_share=0)
        tally = PeopleTally()
        pairs = [make_pair(f"p{i}") for i in range(80)]
        list(tally.watch(simulate_votes(pairs, lambda p: 0.5, config, lambda p: OTHER | {"b": ["changed", "missing"]})))
        from idgrpo.annotate.agreement import people_figures

        figures = people_figures(tally.counts(), AgreementConfig(num_resamples=100))
        assert figures is not None and figures.krippendorff_alpha.value is not None
        return figures.krippendorff_alpha.value

    assert alpha(1.0) == pytest.approx(1.0) and 0.2 < alpha(0.75) < 0.7


def test_simulated_annotators_answer_only_when_they_look(make_pair):
    pairs = [make_pair(f"p{i}") for i in range(200)]
    habits = AnnotatorConfig(skill=1, laziness=0.3, side_bias=0.2, skip_rate=0.1)
    config = OracleConfig(num_annotators=1, overlap=1, annotator=habits, repeat_share=0)
    asked = list(simulate_votes(pairs, lambda p: 0.5, config, lambda p: KEPT))
    plain = list(simulate_votes(pairs, lambda p: 0.5, config))
    assert [v.model_copy(update={"people": None}) for v in asked] == plain  # the question changes no other answer
    answered = [v for v in asked if v.people is not None]
    assert 0.25 < len(answered) / 200 < 0.55 and all(v.people == KEPT and v.answer == "a" for v in answered)


def test_records_without_the_field_are_read_and_impossible_ones_named(tmp_path, make_pair, make_vote):
    vote = make_vote("p", "x", "a").model_dump(mode="json")
    del vote["people"]
    (tmp_path / "votes.jsonl").write_text(json.dumps(vote) + "\n")
    assert next(iter(read_records(tmp_path / "votes.jsonl", Vote))).people is None
    fields = {**make_pair("p").model_dump(), "label": "a", "source": "human"}
    with pytest.raises(ValidationError, match="people.b holds 1 fates for 2 references"):
        Preference(**fields, people={"a": ["kept", "kept"], "b": ["kept"]})
    (tmp_path / "prefs.jsonl").write_text(json.dumps({**fields, "people": {"a": ["gone", None], "b": []}}))
    with pytest.raises(DataError, match=r"prefs\.jsonl:1"):
        list(read_records(tmp_path / "prefs.jsonl", Preference))


def test_exports_are_as_before_and_bring_it_back(tmp_path, make_pair):
    plain = Preference(**dict(make_pair("p").resolved(tmp_path)), label="a", source="human")
    write_trl(tmp_path / "plain.jsonl", [plain])
    assert "people" not in json.loads((tmp_path / "plain.jsonl").read_text())["idgrpo"]
    asked = plain.model_copy(update={"people": KEPT})
    write_trl(tmp_path / "asked.jsonl", [asked])
    lines = [json.loads((tmp_path / f"{name}.jsonl").read_text()) for name in ("plain", "asked")]
    assert {**lines[0], "idgrpo": 0} == {**lines[1], "idgrpo": 0}
    assert list(read_trl(tmp_path / "asked.jsonl", check_files=False)) == [asked]


def test_a_session_of_before_goes_on(tmp_path):
    path = tmp_path / "session.sqlite"
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript(f"BEGIN; {TABLES} ALTER TABLE votes DROP COLUMN people; PRAGMA user_version = 1; COMMIT;")
    database.execute(
        "INSERT INTO votes (vote_id, assignment, pair_id, annotator, answer, shown, a_is_left, seconds, kind, time_utc) "
        "VALUES ('v', 1, 'p', 'x', 'a', 'left', 1, 2.0, 'plain', '2026-11-23')"
    )
    database.close()
    from idgrpo.annotate.queue import read_votes

    database = open_database(path)
    assert [v.people for v in read_votes(database)] == [None]
    assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    database.close()


async def _ask(port: int) -> list[dict]:
    client = Client(port, "ann")
    seen = []
    for index in range(3):
        pair = (await client.post("claim", {"held": []}))["pair"]
        body = {"assignment": pair["assignment"], "vote_id": f"v{index}", "answer": "left", "seconds": 3.0}
        if index == 0:
            for wrong in ({"left": ["gone"], "right": [None]}, {"left": ["kept"]}, {"left": [], "right": []}):
                with pytest.raises(RuntimeError, match="40[09]"):
                    await client.post("vote", body | {"people": wrong})
        people = {"left": ["kept"], "right": ["missing"]} if index < 2 else None
        await client.post("vote", body | {"people": people})
        seen.append(people)
    client.close()
    return seen


def test_the_server_takes_answers_as_shown_and_stores_them_as_meant(tmp_path: Path, clip_pairs):
    import asyncio

    server = start_server(tmp_path, clip_pairs(3), "--set", "queue.overlap=1", "--set", "queue.repeat_share=0",
                          "--set", "ask_people=true")  # fmt: skip
    try:
        asyncio.run(_ask(server.port))
    finally:
        code, _, err = server.stop()
    assert code == 0, err
    votes = list(read_records(Store(tmp_path / "store").resolve("votes").file("votes.jsonl"), Vote))
    assert [v.people and {v.people["a"][0], v.people["b"][0]} for v in votes] == [{"kept", "missing"}] * 2 + [None]
    assert all(v.people is None or v.people[v.answer] == ["kept"] for v in votes)
    write_records(tmp_path / "again.jsonl", votes)
    assert list(read_records(tmp_path / "again.jsonl", Vote)) == votes

"""Links that end, the organiser's page, practice, own votes, codes, guidelines, a proxy under a sub-path."""

import json
import time

import pytest
from starlette.testclient import TestClient
from tests.annotate.test_server import CONFIG, ballot, claim

from idgrpo.annotate import queue
from idgrpo.annotate.access import add_link, completion_code, list_links, new_organiser, revoke
from idgrpo.annotate.config import ServeConfig
from idgrpo.annotate.guidelines import read_guidelines, render
from idgrpo.annotate.schema import SINCE_1, TABLES, open_database
from idgrpo.annotate.server import Desk, build_app
from idgrpo.annotate.session import allowed_hosts, prepare
from idgrpo.annotate.watch import session_status, status_line, tallies
from idgrpo.annotate.writer import Writer
from idgrpo.errors import DataError
from idgrpo.records.models import Vote

PUBLIC = ServeConfig(public_url="https://votes.example.org/faces/", code_after=2)


@pytest.fixture
def make_desk(tmp_path, clip_pairs):
    opened = []

    def make(serve=ServeConfig(), *, needs_link=False, guidelines="", practice=0, gold=0):
        pairs = clip_pairs(4 + practice + gold)
        file = tmp_path / f"session-{len(opened)}.sqlite"
        database = open_database(file)
        known = [(pair, "a") for pair in pairs[4:]]
        prepare(database, pairs[:4], CONFIG, tmp_path, gold=known[practice:], practice=known[:practice])
        desk = Desk(
            Writer(database),
            open_database(file),
            b"secret",
            CONFIG,
            serve,
            needs_link=needs_link,
            guidelines=guidelines,
        )
        opened.append((desk, database))
        return desk

    yield make
    for desk, database in opened:
        desk.writer.close()
        desk.reader.close()
        database.close()


def client_of(desk, base="http://127.0.0.1:8080"):
    return TestClient(build_app(desk, {"127.0.0.1", "localhost"} | allowed_hosts(desk.serve)), base_url=base)


def written(desk, work):
    return desk.writer.submit(work).result()


def test_a_link_expires_and_can_be_revoked_with_all_that_was_opened_with_it(make_desk):
    desk = make_desk(needs_link=True)
    old = written(desk, lambda d: add_link(d, "ann", time.time() - 1))
    answer = client_of(desk).post("/api/enter", json={"token": old})
    assert answer.status_code == 403 and "expired" in answer.json()["error"]
    token = written(desk, lambda d: add_link(d, "ben", time.time() + 60))
    ben = client_of(desk)
    assert ben.post("/api/enter", json={"token": token}).status_code == 200
    vote = ballot(claim(ben, "ben")["pair"], who="ben")
    assert ben.post("/api/vote", json=vote).status_code == 200
    states = {row["annotator"]: row for row in list_links(desk.reader, time.time())}
    assert (states["ann"]["state"], states["ben"]["state"]) == ("expired", "used")
    assert written(desk, lambda d: revoke(d, states["ben"]["id"]))
    assert not written(desk, lambda d: revoke(d, "0" * 16))
    assert ben.post("/api/claim", json={"annotator": "ben"}).status_code == 403
    assert len(list(queue.read_votes(desk.reader))) == 1  # what was voted stays


def test_an_unused_link_is_no_cookie(make_desk):
    desk = make_desk(needs_link=True)
    token = written(desk, lambda d: add_link(d, "ann"))
    forged = TestClient(client_of(desk).app, base_url="http://127.0.0.1:8080", cookies={"idgrpo_annotate": token})
    assert forged.post("/api/claim", json={"annotator": "ann"}).status_code == 403


def test_the_organiser_sees_makes_revokes_and_exports(make_desk):
    desk = make_desk(ServeConfig(code_after=1), needs_link=True)
    token = written(desk, new_organiser)
    boss = client_of(desk)
    for name in ("status", "link", "revoke", "export"):
        assert boss.post(f"/api/organise/{name}", json={"token": "wrong", "annotator": "x"}).status_code in (400, 403)
    made = boss.post("/api/organise/link", json={"token": token, "annotator": "ann"}).json()
    ann = client_of(desk)
    assert ann.post("/api/enter", json={"token": made["enter"]}).json() == {"annotator": "ann"}
    pair = claim(ann)["pair"]
    progress = ann.post("/api/vote", json=ballot(pair, reason="blurred")).json()["progress"]
    assert progress["code"] == completion_code(b"secret", "ann")
    state = boss.post("/api/organise/status", json={"token": token}).json()
    (row,) = state["annotators"]
    assert (row["annotator"], row["votes"], row["left_share"], row["complete"]) == ("ann", 1, 1.0, True)
    assert row["code"] == progress["code"] and state["active"] == 1 and state["done"] == 1
    lines = boss.post("/api/organise/export", json={"token": token}).text.splitlines()
    assert [Vote.model_validate_json(line).reason for line in lines] == ["blurred"]
    (link,) = state["links"]
    assert boss.post("/api/organise/revoke", json={"token": token, "link": link["id"]}).status_code == 200
    assert ann.post("/api/claim", json={"annotator": "ann"}).status_code == 403
    assert made["enter"] not in json.dumps(state)
    new = written(desk, new_organiser)  # another start: the old address ends
    assert boss.post("/api/organise/status", json={"token": token}).status_code == 403
    assert boss.post("/api/organise/status", json={"token": new}).status_code == 200


def test_practice_comes_first_gives_feedback_and_no_votes(make_desk):
    desk = make_desk(practice=2, gold=1)
    client, seen = client_of(desk), []
    for _ in range(2):
        pair = claim(client)["pair"]
        assert pair["practice"] is True
        answer = client.post("/api/vote", json=ballot(pair)).json()
        assert answer["progress"]["mine"] == 0
        seen.append(answer["feedback"])
    assert all(one["right"] == (one["known"] == "left") for one in seen)
    pair = claim(client)["pair"]
    assert "practice" not in pair
    assert "feedback" not in client.post("/api/vote", json=ballot(pair)).json()
    assert len(list(queue.read_votes(desk.reader))) == 1
    assert len(queue.gold_labels(desk.reader)) == 1


def test_own_votes_are_listed_as_shown_and_can_be_taken_back(make_desk):
    desk = make_desk()
    client = client_of(desk)
    first, second = ballot(claim(client)["pair"], "left", reason="the hair"), None
    client.post("/api/vote", json=first)
    second = ballot(claim(client)["pair"], "tie")
    client.post("/api/vote", json=second)
    client.post("/api/vote", json=ballot(claim(client, "bob")["pair"], who="bob"))
    votes = client.post("/api/votes", json={"annotator": "ann"}).json()["votes"]
    assert [(v["answer"], v["comment"]) for v in votes] == [("tie", None), ("left", "the hair")]
    client.post("/api/undo", json={"annotator": "ann", "vote_id": first["vote_id"]})
    votes = client.post("/api/votes", json={"annotator": "ann"}).json()["votes"]
    assert [v["vote_id"] for v in votes] == [second["vote_id"]]


@pytest.mark.parametrize("path", ["/faces/", "/"])
def test_the_page_works_under_a_sub_path_whether_the_proxy_keeps_it_or_not(make_desk, path):
    client = client_of(make_desk(PUBLIC))
    assert client.get(path).status_code == 200
    assert client.get(f"{path}main.js").status_code == 200
    headers = {"origin": "https://votes.example.org", "sec-fetch-site": "same-origin"}
    assert client.post(f"{path}api/claim", json={"annotator": "ann"}, headers=headers).status_code == 200
    assert client.get("/faces", follow_redirects=False).headers["location"] == "/faces/"
    for origin in ("https://evil.example.org", "http://localhost:9999", "null"):
        assert client.post(f"{path}api/claim", json={"annotator": "ann"}, headers={"origin": origin}).status_code == 403
    index = client.get(path).text
    assert 'href="/' not in index and 'src="/' not in index  # addresses are relative


def test_the_cookie_is_bound_to_the_path_and_secure_behind_https(make_desk):
    desk = make_desk(PUBLIC, needs_link=True)
    token = written(desk, lambda d: add_link(d, "ann"))
    entered = client_of(desk).post("/api/enter", json={"token": token}, headers={"origin": "https://votes.example.org"})
    cookie = entered.headers["set-cookie"].lower()
    assert "path=/faces/" in cookie and "secure" in cookie and "httponly" in cookie


def test_guidelines_hold_no_script_and_fetch_nothing(tmp_path, make_desk):
    text = "# Look at\n\n- **faces** first\n\n<script>alert(1)</script> [x](javascript:alert(1)) ![pic](http://x/y.png)\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    html = client_of(make_desk(guidelines=text)).post("/api/me", json={}).json()["guidelines"]
    assert "<h1>Look at</h1>" in html and "<strong>faces</strong>" in html and "<td>1</td>" in html
    assert "<script" not in html and "<img" not in html and 'href="javascript' not in html
    assert render("") == ""
    file = tmp_path / "g.md"
    file.write_bytes(b"\xff\xfe")
    for wrong in (file, tmp_path / "none.md"):
        with pytest.raises(DataError, match="guidelines"):
            read_guidelines(str(wrong))


def vote_of(pair, annotator, answer, *, kind="plain", shown="left", minute=0):
    return Vote(
        vote_id=f"{pair}-{annotator}", pair_id=pair, annotator=annotator, answer=answer, shown=shown, a_is_left=True, seconds=4.0, kind=kind,
        time_utc=f"2026-11-30T10:{minute:02d}:00+00:00",
    )  # fmt: skip


def test_live_figures_are_the_shares_they_say():
    now_s = 1796033400.0 + 5 * 60  # 2026-11-30T10:10:00Z plus five minutes
    votes = [
        vote_of("p", "ann", "a"), vote_of("p", "ben", "a", minute=14), vote_of("p", "cat", "b", shown="right", minute=14),
        vote_of("q", "ann", "skip", shown="skip"), vote_of("g", "ann", "b", kind="gold"), vote_of("h", "ann", "a", kind="gold"),
    ]  # fmt: skip
    everybody, each = tallies(votes, {"g": "a", "h": "a"}, now_s)
    total = everybody.shown(now_s)
    assert (total["votes"], total["skips"], total["gold_accuracy"]) == (6, 1, 0.5)
    assert total["agreement"] == pytest.approx(2 / 6)  # of six ordered pairs of people, two agree
    assert total["left_share"] == pytest.approx(4 / 5)
    assert each["ann"].shown(now_s)["agreement"] == 0.5
    assert total["votes_a_minute"] == pytest.approx(0.2)


def test_the_state_of_a_session_in_one_line(make_desk):
    desk = make_desk()
    client = client_of(desk)
    client.post("/api/vote", json=ballot(claim(client)["pair"]))
    line = status_line(session_status(desk.reader, CONFIG, time.time()))
    assert line.startswith("1 of 8 votes · 1 active · 0.1 a minute · 70 min left · left 1.00")


def test_a_session_of_an_older_version_goes_on(tmp_path, clip_pairs):
    import sqlite3

    file = tmp_path / "old.sqlite"
    database = sqlite3.connect(file, isolation_level=None)
    database.executescript(f"BEGIN; {TABLES} PRAGMA user_version = 2; COMMIT;")
    database.execute("INSERT INTO sessions VALUES ('x', 'ann', 0)")
    database.close()
    database = open_database(file)
    assert [row["state"] for row in list_links(database, time.time())] == ["open"]
    prepare(database, clip_pairs(2), CONFIG, tmp_path)
    assert queue.claim(database, "ann", [], CONFIG, time.time()) is not None
    database.close()
    assert "votes" in SINCE_1

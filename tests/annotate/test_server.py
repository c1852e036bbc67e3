"""The API without a browser: what it gives, and everything it must refuse."""

import json
import uuid

import pytest
from starlette.testclient import TestClient

from idgrpo.annotate import queue
from idgrpo.annotate.access import add_link
from idgrpo.annotate.config import QueueConfig, ServeConfig
from idgrpo.annotate.schema import open_database
from idgrpo.annotate.server import COOKIE, Desk, build_app
from idgrpo.annotate.session import prepare
from idgrpo.annotate.writer import Writer

CONFIG = QueueConfig(overlap=2, repeat_share=0, gold_share=0)
SERVE = ServeConfig()


@pytest.fixture(params=[False])
def desk(tmp_path, clip_pairs, request):
    database = open_database(tmp_path / "session.sqlite")
    prepare(database, clip_pairs(4), CONFIG, tmp_path)
    reader = open_database(tmp_path / "session.sqlite")
    writer = Writer(database)
    yield Desk(writer, reader, b"secret", CONFIG, SERVE, needs_link=request.param)
    writer.close()
    reader.close()
    database.close()


@pytest.fixture
def client(desk):
    return TestClient(build_app(desk, {"127.0.0.1", "localhost"}), base_url="http://127.0.0.1:8080")


def claim(client, who="ann", held=()):
    answer = client.post("/api/claim", json={"annotator": who, "held": list(held)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ballot(pair, answer="left", who="ann", **changes):
    body = {
        "annotator": who,
        "assignment": pair["assignment"],
        "vote_id": uuid.uuid4().hex,
        "answer": answer,
        "seconds": 4.5,
    }
    return {**body, **changes}


def test_a_whole_session(client, desk):
    seen = []
    while (pair := claim(client)["pair"]) is not None:
        seen.append(pair)
        saved = client.post("/api/vote", json=ballot(pair))
        assert saved.status_code == 200 and saved.json()["new"] is True
    assert len(seen) == 4 and saved.json()["progress"] == {"mine": 4, "votes": 4, "needed": 8, "left": 0}
    assert [v.shown for v in queue.read_votes(desk.reader)] == ["left"] * 4


def test_nothing_names_the_generator_or_the_kind(client):
    text = json.dumps(claim(client))
    for word in (
        "vace",
        "phantom",
        "secret-generator",
        "pair-",
        "one.mp4",
        "clips",
        "plain",
        "gold",
        "a_is_left",
        "origin",
    ):
        assert word not in text


def test_media_by_name_with_ranges(client, clips):
    pair = claim(client)["pair"]
    whole = client.get(pair["left"]["url"])
    assert whole.status_code == 200 and whole.headers["content-type"] == "video/mp4"
    assert whole.content in ((clips / "one.mp4").read_bytes(), (clips / "two.mp4").read_bytes())
    part = client.get(pair["left"]["url"], headers={"range": "bytes=2-5"})
    assert part.status_code == 206 and part.content == whole.content[2:6]
    assert client.get(pair["references"][0]["images"][0]).headers["content-type"] == "image/png"
    assert pair["left"]["fps"] == 16 and pair["left"]["frames"] == 9


def test_sending_twice_is_harmless_and_undo_works(client, desk):
    body = ballot(claim(client)["pair"])
    assert [client.post("/api/vote", json=body).json()["new"] for _ in range(3)] == [True, False, False]
    assert client.post("/api/vote", json={**body, "vote_id": "other"}).status_code == 409
    for _ in range(2):
        assert client.post("/api/undo", json={"annotator": "ann", "vote_id": body["vote_id"]}).status_code == 200
    assert list(queue.read_votes(desk.reader)) == []
    assert claim(client)["pair"]["assignment"] == body["assignment"]
    assert client.post("/api/undo", json={"annotator": "bob", "vote_id": body["vote_id"]}).status_code == 409


@pytest.mark.parametrize("path", [
    "/media/../session.sqlite", "/media/%2e%2e/session.sqlite", "/media/..%2fsession.sqlite", "/media//etc/passwd", "/media/%2fetc%2fpasswd",
    "/../pyproject.toml", "/%2e%2e/server.py", "/session.sqlite", "/page/main.js", "/media/" + "0" * 32, "/media/", "/server.py",
])  # fmt: skip
def test_traversal_finds_nothing(client, path):
    claim(client)
    assert client.get(path).status_code == 404


def test_a_clip_replaced_by_a_link_is_not_given(client, clips, tmp_path):
    pair = claim(client)["pair"]
    (tmp_path / "private.mp4").write_bytes(b"private")
    for name in ("one.mp4", "two.mp4"):
        (clips / name).unlink()
        (clips / name).symlink_to(tmp_path / "private.mp4")
    assert client.get(pair["left"]["url"]).status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:8080"}, 421),
        ({"host": ""}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-length": "999999999"}, 413),
    ],
)
def test_foreign_requests_are_refused(client, desk, headers, status):
    body = json.dumps({"annotator": "ann"}).encode()
    answer = client.post("/api/claim", content=body, headers={"content-type": "application/json", **headers})
    assert answer.status_code == status
    assert desk.reader.execute("SELECT COUNT(*) FROM assignments").fetchone() == (0,)


def test_our_own_page_is_not_refused(client):
    headers = {
        "origin": "http://127.0.0.1:8080",
        "sec-fetch-site": "same-origin",
        "content-type": "application/json; charset=utf-8",
    }
    assert client.post("/api/claim", content=b'{"annotator":"ann"}', headers=headers).status_code == 200
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421


def test_a_large_body_is_refused_without_a_length(client):
    def chunks():
        for _ in range(40):
            yield b" " * 1024

    answer = client.post("/api/claim", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"annotator": 3}', b'{"annotator": ""}', b'{"annotator": "../../x"}', b'{"annotator": "a", "more": 1}',
    b'{"annotator": "' + b"a" * 41 + b'"}', b'{"annotator": "ann", "held": ["<script>"]}',
])  # fmt: skip
def test_malformed_json_is_refused(client, body):
    answer = client.post("/api/claim", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]


@pytest.mark.parametrize("changes", [
    {"answer": "best"}, {"seconds": -1}, {"seconds": "4"}, {"seconds": 1e9}, {"assignment": "x/y"}, {"vote_id": ""}, {"reason": "x" * 501},
    {"answer": "skip"}, {"answer": "skip", "reason": "  "},
])  # fmt: skip
def test_bad_votes_are_refused(client, desk, changes):
    assert client.post("/api/vote", json=ballot(claim(client)["pair"], **changes)).status_code == 400
    assert list(queue.read_votes(desk.reader)) == []


def test_a_skip_with_its_reason_is_a_vote(client, desk):
    assert client.post("/api/vote", json=ballot(claim(client)["pair"], "skip", reason="blurred")).status_code == 200
    (vote,) = queue.read_votes(desk.reader)
    assert (vote.answer, vote.reason) == ("skip", "blurred")


def test_other_peoples_pairs_and_unknown_ones_are_refused(client):
    pair = claim(client)["pair"]
    assert client.post("/api/vote", json=ballot(pair, who="bob")).status_code == 409
    assert client.post("/api/vote", json=ballot(pair, assignment="unknown")).status_code == 409


def test_other_methods_are_refused(client):
    assert client.get("/api/claim").status_code in (404, 405)
    assert client.put("/api/claim", json={}).status_code == 405
    assert client.delete("/").status_code == 405


def test_the_page_has_a_strict_policy_and_no_outside_address(client):
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    for name in ("", "style.css", "main.js", "player.js", "outbox.js", "keys.js", "view.js"):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"
        assert "http://" not in answer.text and "https://" not in answer.text


@pytest.mark.parametrize("desk", [True], indirect=True)
def test_links_are_used_once_and_bind_a_name(client, desk):
    assert client.post("/api/claim", json={"annotator": "ann"}).status_code == 403
    token = desk.writer.submit(lambda database: add_link(database, "ann")).result()
    assert client.post("/api/enter", json={"token": "wrong"}).status_code == 403
    entered = client.post("/api/enter", json={"token": token})
    assert entered.json() == {"annotator": "ann"}
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    pair = claim(client)["pair"]
    assert client.post("/api/claim", json={"annotator": "bob"}).status_code == 403
    stranger = TestClient(client.app, base_url="http://127.0.0.1:8080")
    assert stranger.post("/api/enter", json={"token": token}).status_code == 403
    assert stranger.get(pair["left"]["url"]).status_code == 403
    assert stranger.post("/api/vote", json=ballot(pair)).status_code == 403
    forged = TestClient(client.app, base_url="http://127.0.0.1:8080", cookies={COOKIE: token})
    assert forged.post("/api/claim", json={"annotator": "bob"}).status_code == 403


def test_no_secret_and_no_address_is_stored(desk, client):
    token = desk.writer.submit(lambda database: add_link(database, "ann")).result()
    client.post("/api/vote", json=ballot(claim(client)["pair"]))
    dump = "\n".join(desk.reader.iterdump())
    assert token not in dump and "testclient" not in dump and "127.0.0.1" not in dump

"""Killed or stopped at any time: what was acknowledged is there."""

import asyncio
import json
import random
import sqlite3

import pytest
from tests.annotate.conftest import clip_pairs, clips  # noqa: F401 the annotate room's fixtures
from tests.annotate.live import Client, Server, start_server

from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Vote
from idgrpo.store.store import Store

STEADY = ("--set", "queue.overlap=3", "--set", "queue.repeat_share=0")


async def vote_until_cut(port: int, name: str, acknowledged: set[str], limit: int = 10_000) -> None:
    client = Client(port, name)
    try:
        for _ in range(limit):
            pair = (await client.post("claim", {}))["pair"]
            if pair is None:
                return
            vote_id, _ = await client.vote(pair["assignment"])
            acknowledged.add(vote_id)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return
    finally:
        client.close()


def test_ctrl_c_drains_publishes_and_goes_on_later(tmp_path, clip_pairs):  # noqa: F811
    acknowledged: set[str] = set()
    for round_, expected in enumerate((3, 8), start=1):
        server = start_server(tmp_path, clip_pairs(8), *STEADY)
        asyncio.run(vote_until_cut(server.port, "ann", acknowledged, limit=expected - len(acknowledged)))
        code, out, err = server.stop()
        assert code == 0, err
        assert out == f"preferences/people@v{round_}\n"
        votes = list(
            read_records(Store(tmp_path / "store").resolve("votes").file("votes.jsonl"), Vote, unique="vote_id")
        )
        assert {vote.vote_id for vote in votes} == acknowledged and len(votes) == expected
        assert (
            len(Store(tmp_path / "store").resolve("preferences").file("prefs.jsonl").read_text().splitlines())
            == expected
        )


def test_stopped_before_the_first_vote_says_so(tmp_path, clip_pairs):  # noqa: F811
    code, out, err = start_server(tmp_path, clip_pairs(2), *STEADY).stop()
    assert code == 75 and out == "" and "before the first vote" in err


def test_two_servers_cannot_share_a_session(tmp_path, clip_pairs):  # noqa: F811
    server = start_server(tmp_path, clip_pairs(2), *STEADY)
    try:
        with pytest.raises(AssertionError, match="another process"):
            start_server(tmp_path, clip_pairs(2), *STEADY)
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_kills_lose_no_acknowledged_vote(tmp_path, clip_pairs):  # noqa: F811
    draw = random.Random(0)
    acknowledged: set[str] = set()
    pairs = clip_pairs(3000)
    for kill in range(30):
        server = start_server(tmp_path, pairs, *STEADY)

        async def work(server: Server = server, kill: int = kill) -> None:
            tasks = [
                asyncio.create_task(vote_until_cut(server.port, f"who-{kill}-{i}", acknowledged)) for i in range(4)
            ]
            enough = len(acknowledged) + draw.randint(
                1, 30
            )  # by progress, not by the clock: a slow machine loses nothing
            while len(acknowledged) < enough and not all(task.done() for task in tasks):
                await asyncio.sleep(draw.uniform(0, 0.01))
            server.process.kill()
            await asyncio.gather(*tasks)

        asyncio.run(work())
        server.process.wait()
        server.process.stdout.close()
        server.process.stderr.close()
    (session,) = (tmp_path / "store" / "runs").glob("annotate-people-*/session.sqlite")
    database = sqlite3.connect(session)
    stored = {row[0] for row in database.execute("SELECT vote_id FROM votes")}
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(acknowledged) > 200
    assert acknowledged <= stored
    (taken,) = database.execute("SELECT COUNT(*) FROM assignments WHERE state = 'voted'").fetchone()
    assert taken == len(stored)
    print(
        json.dumps(
            {"kills": 30, "acknowledged": len(acknowledged), "stored": len(stored), "lost": len(acknowledged - stored)}
        )
    )

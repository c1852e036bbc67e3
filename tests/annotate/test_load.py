"""Speed of the queue and of the server (marker `bench`): run alone on a quiet machine."""

import asyncio
import json
import os
import random
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.annotate.live import Client, free_port, start_server
from tests.annotate.proxy import Proxy

from idgrpo.annotate import queue
from idgrpo.annotate.config import QueueConfig
from idgrpo.annotate.schema import open_database
from idgrpo.records.models import Pair

NUM_CLIENTS = 50
VOTES_EACH = 40


def claim_seconds(tmp_path, template: Pair, num_pairs: int) -> float:
    """Median cost of claim + vote, after annotators have worked some way into the queue."""
    database = open_database(tmp_path / f"queue-{num_pairs}.sqlite")
    database.execute("PRAGMA synchronous = OFF")  # the logic is measured, not the disk
    config = QueueConfig(overlap=3)
    database.execute("BEGIN")
    queue.fill(database, (template.model_copy(update={"pair_id": f"p{i}"}) for i in range(num_pairs)))
    database.execute("COMMIT")
    costs = []
    database.execute("BEGIN")
    for turn in range(3000):
        who = f"who-{turn % 10}"
        started = time.perf_counter()
        got = queue.claim(database, who, [], config, float(turn))
        costs.append(time.perf_counter() - started)
        queue.record_vote(database, who, got.token, f"v{turn}", "left", 1.0, None, config, "2026-11-23T00:00:00Z")
    database.execute("COMMIT")
    database.close()
    return statistics.median(costs[500:])


@pytest.mark.bench
@pytest.mark.timeout(600)
def test_a_claim_costs_the_same_in_a_queue_of_a_million(tmp_path, make_pair):
    template = make_pair("p")
    ratios = []
    small = claim_seconds(tmp_path, template, 10_000)
    large = claim_seconds(tmp_path, template, 1_000_000)
    (tmp_path / "queue-10000.sqlite").unlink()
    small = min(small, claim_seconds(tmp_path, template, 10_000))
    ratios.append(large / small)
    print(json.dumps({"claim_us_10k": small * 1e6, "claim_us_1m": large * 1e6, "ratio": large / small}))
    assert ratios[0] <= 1.2


def cpu_seconds(process: int) -> float:
    """CPU time a process has used: unlike a wait it does not depend on what else the machine does."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.bench
@pytest.mark.timeout(600)
@pytest.mark.parametrize("proxied", [False, True])
def test_fifty_annotators_at_once(tmp_path, clip_pairs, proxied):
    """Each votes every 0.5 s on average, about ten times as fast as people: 100 votes and 100 claims a second.

    `proxied`: through a reverse proxy under a sub-path, each with the cookie of a link.
    """
    options = ["--set", "queue.overlap=1", "--set", "queue.repeat_share=0"]
    public = "https://votes.example.org/faces/"
    if proxied:
        options += ["--public-url", public]
        options += [word for number in range(NUM_CLIENTS) for word in ("--annotator", f"who-{number}")]
    port = free_port() if proxied else 0
    server = start_server(tmp_path, clip_pairs(NUM_CLIENTS * VOTES_EACH), *options, port=port)
    with Proxy(server.port) if proxied else nullcontext() as proxy:
        _vote_all(tmp_path, server, proxy)


def _vote_all(tmp_path, server, proxy) -> None:
    waits: list[float] = []
    acknowledged: set[str] = set()

    async def annotator(number: int) -> None:
        draw = random.Random(number)
        name = f"who-{number}"
        client = (
            Client(server.port, name)
            if proxy is None
            else Client(proxy.port, name, "/faces", "https://votes.example.org")
        )
        await asyncio.sleep(draw.uniform(0, 0.5))
        if proxy is not None:
            await client.post("enter", {"token": server.links[name]})
        for _ in range(VOTES_EACH):
            pair = (await client.post("claim", {}))["pair"]
            await asyncio.sleep(draw.uniform(0.2, 0.8))
            vote_id, seconds = await client.vote(pair["assignment"])
            waits.append(seconds)
            acknowledged.add(vote_id)
        client.close()

    async def everybody() -> None:
        await asyncio.gather(*(annotator(number) for number in range(NUM_CLIENTS)))

    asyncio.run(everybody())
    (file,) = (tmp_path / "store" / "runs").glob("annotate-people*/session.sqlite")
    database = open_database(file)
    stored = {vote.vote_id for vote in queue.read_votes(database)}
    database.close()
    used_s = cpu_seconds(server.process.pid)
    server.stop()
    p99 = statistics.quantiles(waits, n=100)[98]
    print(
        json.dumps(
            {
                "votes": len(waits),
                "p50_ms": 1e3 * statistics.median(waits),
                "p99_ms": 1e3 * p99,
                "lost": len(acknowledged - stored),
                "server_cpu_ms_each": 1e3 * used_s / (2 * len(waits)),  # votes and claims, start included
            }
        )
    )
    assert acknowledged == stored and len(stored) == NUM_CLIENTS * VOTES_EACH
    assert p99 < (0.050 if proxy is None else 0.100)  # the proxy is a Python thread that shares the client's processor

"""Slow clients beside quick ones at both servers: the quick ones are answered in time, and nothing of theirs is lost."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager

import pytest
from tests.annotate.conftest import clip_pairs, clips  # noqa: F401 the annotate room's fixtures
from tests.annotate.live import Client, start_server

from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Vote
from idgrpo.store.store import Store

ROUNDS = 4
PAUSE_S = 1.0
SMALL = 20


class Crowd:
    """Slow clients that never finish a request, while quick ones work."""

    def __init__(self, port: int, path: str, content_type: str):
        self.port, self.path, self.content_type = port, path, content_type

    async def slow(self, number: int) -> None:
        """Hold half-sent headers, a body that stalls, a body that trickles, or an answer that is not read; come back when cut off."""
        head = f"POST {self.path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
        whole = f"{head}content-type: {self.content_type}\r\ncontent-length: 9000\r\n\r\n"
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write((head if number % 4 == 0 else whole).encode())
                for _ in range(60):
                    if reader.at_eof() or writer.transport.is_closing():
                        break
                    if number % 4 == 2:
                        writer.write(b"x")
                    await asyncio.sleep(1)
                writer.close()
            except OSError:
                await asyncio.sleep(0.1)

    async def meet(self, num: int, quick: Callable[[int], Awaitable[list[float]]]) -> list[float]:
        """Let as many quick ones work beside the slow ones; give the times of all their requests."""
        slow = [asyncio.create_task(self.slow(number)) for number in range(num)]
        await asyncio.sleep(1)
        times = await asyncio.gather(*(quick(number) for number in range(num)))
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        return sorted(second for of_one in times for second in of_one)


def p99(times: list[float]) -> float:
    return times[int(len(times) * 0.99)]


def check_page(folder, pairs, num: int) -> None:
    server = start_server(folder, pairs, "--set", "queue.overlap=1", "--set", "queue.repeat_share=0")
    acknowledged: set[str] = set()

    async def quick(number: int) -> list[float]:
        client, times = Client(server.port, f"ann-{number}"), []
        for _ in range(ROUNDS):
            await asyncio.sleep(random.uniform(0, 2 * PAUSE_S))
            started = time.perf_counter()
            pair = (await client.post("claim", {}))["pair"]
            times.append(time.perf_counter() - started)
            vote, seconds = await client.vote(pair["assignment"])
            acknowledged.add(vote)
            times.append(seconds)
        client.close()
        return times

    times = asyncio.run(Crowd(server.port, "/api/vote", "application/json").meet(num, quick))
    code, _, err = server.stop()
    assert code == 0, err
    assert len(err) < 2000, "the log is not flooded"
    votes = read_records(Store(folder / "store").resolve("votes").file("votes.jsonl"), Vote)
    assert {vote.vote_id for vote in votes} == acknowledged and len(acknowledged) == num * ROUNDS
    tell("page", num, times)


SERVICE = """
import signal
from idgrpo.reward.service import listen, make_app, serve
from idgrpo.run.signals import StopSignal

class Instant:
    digest, device = "sha256:instant", "cpu"
    def score(self, videos, references, prompts, fps=None):
        return [1.0] * len(videos)

listener = listen("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
with StopSignal() as stop:
    serve(make_app([Instant()]), listener, lambda: stop.requested)
"""


@contextmanager
def scoring():
    """Serve a model that answers at once, with the limits of the command, in a process of its own."""
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield int(service.stdout.readline())
    service.terminate()
    _, err = service.communicate(timeout=60)
    assert service.returncode == 0 and len(err) < 2000, err[-2000:]


async def ask(port: int, request: bytes) -> dict | None:
    """Send a request and read the answer; None when it was turned away."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    except OSError:
        return None
    status = int(head.split(b" ", 2)[1])
    assert status in (200, 503), head
    return json.loads(content) if status == 200 else None


def check_scoring(num: int) -> None:
    import torch

    from idgrpo.reward.wire import TYPE, pack_request

    body = pack_request([torch.zeros(2, 3, 16, 16, dtype=torch.uint8)], [[torch.zeros(3, 16, 16)]], ["x"])
    length = f"content-type: {TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
    head = f"POST /score HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{length}"
    with scoring() as port:

        async def quick(number: int) -> list[float]:
            times = []
            for _ in range(2 * ROUNDS):
                await asyncio.sleep(random.uniform(0, 4 * PAUSE_S))
                started = time.perf_counter()
                while (
                    answer := await ask(port, head.encode() + body)
                ) is None:  # turned away: again, as our own client
                    await asyncio.sleep(0.05)
                times.append(time.perf_counter() - started)
                assert answer["results"] == [{"score": 1.0}], answer
            return times

        times = asyncio.run(Crowd(port, "/score", TYPE).meet(num, quick))
    assert len(times) == num * 2 * ROUNDS
    tell("scoring service", num, times)


def tell(server: str, num: int, times: list[float]) -> None:
    print(
        f"{server}: {num} slow and {num} quick clients, {len(times)} requests of the quick ones, p50 {times[len(times) // 2] * 1e3:.0f} ms, p99 {p99(times) * 1e3:.0f} ms"
    )
    assert p99(times) < 1.0


def test_a_few_slow_clients_of_the_page(tmp_path, clip_pairs):  # noqa: F811
    check_page(tmp_path, clip_pairs(SMALL * ROUNDS), SMALL)


def test_a_few_slow_clients_of_the_scoring_service():
    check_scoring(SMALL)


@pytest.mark.hostile
def test_two_hundred_slow_clients_of_the_page(tmp_path, clip_pairs):  # noqa: F811
    check_page(tmp_path, clip_pairs(200 * ROUNDS), 200)


@pytest.mark.hostile
def test_two_hundred_slow_clients_of_the_scoring_service():
    check_scoring(200)

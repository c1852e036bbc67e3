"""Slow callers lose their connection, quick ones are answered meanwhile; nothing grows without bound."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from scoring import clips

from idgrpo.reward.service import listen, make_app, serve
from idgrpo.reward.wire import TYPE, pack_request
from idgrpo.run.limits import Limits

HEADERS = {"content-type": TYPE}


class Instant:
    """A model that answers at once."""

    digest, device = "sha256:instant", "cpu"

    def score(self, videos, references, prompts, fps=None):
        return [1.0] * len(videos)


@contextlib.contextmanager
def served(**limits) -> Iterator[tuple[str, int]]:
    """Serve on a free port in a thread."""
    listener, stop = listen("127.0.0.1", 0), threading.Event()
    app = make_app([Instant()], max_waiting=2, limits=Limits(**limits))
    thread = threading.Thread(target=serve, args=(app, listener, stop.is_set))
    thread.start()
    try:
        yield listener.getsockname()[:2]
    finally:
        stop.set()
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def connect(address: tuple[str, int], text: bytes) -> socket.socket:
    caller = socket.create_connection(address)
    caller.sendall(text)
    caller.settimeout(10)
    return caller


def answer(caller: socket.socket) -> bytes:
    """Read until the service closes; nothing where it cut the connection off."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := caller.recv(4096):
            found += part
    return found


def test_headers_that_do_not_end_are_not_waited_for() -> None:
    with served(header_timeout_s=0.3) as address:
        start = time.monotonic()
        silent, half = connect(address, b""), connect(address, b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        again = connect(address, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert again.recv(4096).startswith(b"HTTP/1.1 200")
        again.sendall(b"GET /hea")  # the second one is half
        assert answer(silent) == b"" and answer(half) == b""
        answer(again)
        assert 0.25 < time.monotonic() - start < 4


def test_a_stalled_body_ends_and_takes_no_place_of_others() -> None:
    head = b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: " + TYPE.encode()
    with served(pause_timeout_s=1.5) as address:
        stalled = [connect(address, head + b"\r\nContent-Length: 1000000\r\n\r\nhalf") for _ in range(8)]
        web = httpx.Client(base_url=f"http://{address[0]}:{address[1]}", headers=HEADERS)
        start = time.monotonic()
        for _ in range(3):  # max_waiting is 2
            assert web.post("/score", content=pack_request(*clips(1))).status_code == 200
        assert web.get("/health").json()["pending"] == 0
        assert time.monotonic() - start < 1.5
        told = [answer(caller) for caller in stalled]
        assert all(text.startswith(b"HTTP/1.1 408") for text in told) and time.monotonic() - start < 8


def test_a_trickle_is_no_body() -> None:
    app = make_app([Instant()], limits=Limits(pause_timeout_s=0.2, min_bytes_per_s=1000.0))

    async def trickle():
        for _ in range(100):
            await asyncio.sleep(0.05)
            yield b"x"

    async def post() -> tuple[int, float]:
        start = time.monotonic()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=HEADERS) as web:
            found = await web.post("/score", content=trickle())
        return found.status_code, time.monotonic() - start

    status, took_s = asyncio.run(post())
    assert status == 408 and took_s < 3


def test_bytes_in_flight_are_bounded_and_given_back() -> None:
    app = make_app([Instant()], limits=Limits(max_bytes_in_flight=40_000))
    body = pack_request(*clips(1))
    assert 20_000 < len(body) < 40_000

    async def twice() -> list[int]:
        transport = httpx.ASGITransport(app)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slowly():
            yield body[:20_000]
            begun.set()
            await go_on.wait()
            yield body[20_000:]

        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=HEADERS) as web:
            slow = asyncio.create_task(web.post("/score", content=slowly()))
            await begun.wait()
            refused = await web.post("/score", content=body)
            go_on.set()
            first = await slow
            later = await web.post("/score", content=body)
            return [first.status_code, refused.status_code, later.status_code]

    assert asyncio.run(twice()) == [200, 503, 200]


@pytest.mark.parametrize("num_slow", [60])
def test_many_slow_callers_beside_quick_ones(num_slow) -> None:
    with served(header_timeout_s=30.0, max_connections=24) as address:
        slow = [connect(address, b"POST /score HTTP/1.1\r\nHost: ") for _ in range(num_slow)]
        web = httpx.Client(base_url=f"http://{address[0]}:{address[1]}", headers=HEADERS)
        times = []
        for _ in range(40):
            start = time.monotonic()
            assert web.post("/score", content=pack_request(*clips(1))).status_code == 200
            times.append(time.monotonic() - start)
        assert sorted(times)[-2] < 1.0
        for caller in slow:
            caller.close()

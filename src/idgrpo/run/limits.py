"""What a caller of a server may take: time for headers and bodies, connections, bytes at once, names in Host."""

import asyncio
import ipaddress
import resource
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.requests import Request
from uvicorn.protocols.http import h11_impl

from idgrpo.errors import DataError


@dataclass(frozen=True)
class Limits:
    """Bounds of one server; what is beyond them is turned away and never waited for."""

    max_bytes: int = 2 * 2**30  # of one body
    max_bytes_in_flight: int = 4 * 2**30  # of all bodies that are read or scored
    max_header_bytes: int = 16 * 2**10
    header_timeout_s: float = 10.0  # from the connection, or the last answer, to the end of the headers
    pause_timeout_s: float = 10.0  # between two pieces of a body
    min_bytes_per_s: float = 64 * 2**10  # of a body, after the first pause_timeout_s
    reading_timeout_s: float = 60.0  # for a caller to take the next piece of an answer
    max_connections: int = field(default_factory=lambda: _half_of_the_files())


def _half_of_the_files() -> int:
    """Half of the files that this process may open, at most 1,000."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(1000, max(8, soft // 2)) if soft > 0 else 1000


class TooMuchError(Exception):
    """A request is turned away with this status."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class BodyReader:
    """Reads bodies within the limits and counts what is in flight; `held` has to be given back with `release`."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.num_bytes = 0

    async def read(self, request: Request) -> bytes:
        """Return the whole body.

        Raises:
            TooMuchError: it is too large (413), too slow (408), or too much is in flight (503).
            DataError: the stated length is no number.
            ClientDisconnect: the caller left before it was whole.
        """
        limits = self.limits
        stated = request.headers.get("content-length", "0")
        if not (stated.isascii() and stated.isdigit()):
            raise DataError(f"content-length is {stated!r}, not a number of bytes")
        if int(stated) > limits.max_bytes:
            raise TooMuchError(413, f"a request may have {limits.max_bytes} bytes")
        body, stream, start = bytearray(), aiter(request.stream()), time.monotonic()
        try:
            while True:
                try:
                    part = await asyncio.wait_for(anext(stream), limits.pause_timeout_s)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    raise TooMuchError(408, f"no piece of the body for {limits.pause_timeout_s:g} s") from None
                body += part
                self.num_bytes += len(part)
                # Counted while it comes in: a chunked body states no length, and a stated one may never come.
                if len(body) > limits.max_bytes:
                    raise TooMuchError(413, f"a request may have {limits.max_bytes} bytes")
                if self.num_bytes > limits.max_bytes_in_flight:
                    raise TooMuchError(503, f"requests of {limits.max_bytes_in_flight} bytes are being worked on")
                if time.monotonic() - start > limits.pause_timeout_s + len(body) / limits.min_bytes_per_s:
                    raise TooMuchError(
                        408, f"the body comes with less than {limits.min_bytes_per_s:g} bytes per second"
                    )
        except BaseException:
            self.num_bytes -= len(body)
            raise
        return bytes(body)

    def release(self, body: bytes) -> None:
        """Say that a body is done with."""
        self.num_bytes -= len(body)


def is_our_name(host_header: str, names: Iterable[str]) -> bool:
    """Tell whether a Host header names this machine: by address, as localhost, by its own name, or by one of `names`.

    A web page that points a name of its own at this machine (DNS rebinding) sends that name.
    """
    host = host_header.rpartition(":")[0] if not host_header.endswith("]") and ":" in host_header else host_header
    host = host.strip("[]").lower()
    try:
        ipaddress.ip_address(host)
        return True
    except ValueError:
        machine = socket.gethostname().lower()
        return host in {"localhost", machine, machine.partition(".")[0], *(name.lower() for name in names)}


def patient_protocol(limits: Limits) -> type[h11_impl.H11Protocol]:
    """Return uvicorn's HTTP protocol with a time limit for headers and a limit on connections.

    A connection beyond the limit takes the place of the one that has been idle longest: without whole headers, or kept
    after an answer. Where none is, it is closed.
    """
    waiting: dict[h11_impl.H11Protocol, None] = {}  # in the order in which they began to wait

    class PatientProtocol(h11_impl.H11Protocol):
        header_timer: asyncio.TimerHandle | None = None
        reading_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
                oldest = next(iter(waiting), self)
                oldest.transport.abort()
                waiting.pop(oldest, None)
                if oldest is self:
                    return
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            self._is_read()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing() and self.conn.their_state is h11_impl.h11.IDLE:
                waiting[self] = None

        def pause_writing(self) -> None:
            super().pause_writing()
            if self.reading_timer is None:
                self.reading_timer = self.loop.call_later(limits.reading_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            self._is_read()
            super().resume_writing()

        def _is_read(self) -> None:
            if self.reading_timer is not None:
                self.reading_timer.cancel()
                self.reading_timer = None

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11_impl.h11.IDLE and not self.transport.is_closing():
                self._watch()
            else:
                self._unwatch()

        def _watch(self) -> None:
            if self.header_timer is None:
                self.header_timer = self.loop.call_later(limits.header_timeout_s, self.transport.abort)
                waiting[self] = None

        def _unwatch(self) -> None:
            waiting.pop(self, None)
            if self.header_timer is not None:
                self.header_timer.cancel()
                self.header_timer = None

    return PatientProtocol

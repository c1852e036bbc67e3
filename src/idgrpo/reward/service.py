"""Score over HTTP, for callers on another machine: `idgrpo artifacts serve rm --device cuda:0 --device cuda:1`.

POST /score takes a request of `wire.py`; GET /health tells model, devices and load, GET /metrics the same for Prometheus. One
model and one worker thread per device; more waiting requests than allowed are turned away with 503 and Retry-After: callers
wait in line and come again. A caller that is slow, or whose clips cannot be scored, harms itself alone.
"""

import asyncio
import contextlib
import hmac
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from idgrpo.errors import BusyError, DataError, IdgrpoError, UsageError
from idgrpo.reward import served
from idgrpo.reward.score import RewardFailure, RewardModel, Score
from idgrpo.reward.served import ServiceFigures
from idgrpo.reward.wire import TYPE, pack_scores, unpack_request
from idgrpo.run.limits import BodyReader, Limits, TooMuchError, is_our_name, patient_protocol
from idgrpo.run.serving import serve_until

DRAIN_S = 60
BACKLOG = 1024


@dataclass
class Errand:
    """A whole request on its way to a model."""

    request: tuple
    result: "Future[Sequence[Score]]" = field(default_factory=Future)
    since_s: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.request[2])


class ScoringDesk:
    """The counter of the service: who waits, what was scored, which device is free and which one fell over.

    Devices take requests in turn, in the order in which they came; with `join` one takes several at once, up to that many
    clips, and scores them in one call.
    """

    def __init__(
        self,
        models: Sequence[RewardModel],
        max_waiting: int,
        limits: Limits,
        hosts: Iterable[str],
        token: str | None = None,
        join: int = 0,
    ):
        self.models = models
        self.max_waiting = max_waiting
        self.limits = limits
        self.hosts = tuple(hosts)
        self.token = token
        self.join = join
        self.num_pending = 0
        self.figures = ServiceFigures()
        self.failures: dict[int, str] = {}  # place of the model -> why its newest scoring failed
        self._bodies = BodyReader(limits)
        self._errands: queue.SimpleQueue[Errand] = queue.SimpleQueue()
        self._left: list[Errand] = []  # taken where there was no room for it any more
        self._idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(models)):
            self._idle.put(place)
        self._threads = ThreadPoolExecutor(len(models), thread_name_prefix="score")
        threading.Thread(target=self._deal, name="deal", daemon=True).start()

    async def score(self, request: Request) -> JSONResponse:
        """Answer one request with results, or with the reason why there are none."""
        answer = await self._answer(request)
        self.figures.answered(answer.status_code)
        return answer

    async def _answer(self, request: Request) -> JSONResponse:
        try:
            self._require_welcome(request)
            body = await self._bodies.read(request)
            try:
                results = await self._wait(body)
            finally:
                self._bodies.release(body)
        except TooMuchError as error:
            # What is left of the body is not waited for.
            headers = {"Connection": "close"} | ({"Retry-After": "1"} if error.status == 503 else {})
            return JSONResponse({"error": error.message}, error.status, headers=headers)
        except ClientDisconnect:  # nobody reads this; it is no fault of a device
            return JSONResponse({"error": "the caller left before its request was whole"}, 400)
        except DataError as error:
            return JSONResponse({"error": error.message}, 422)
        except Exception as error:
            return JSONResponse({"error": _text(error)}, 500)
        self.figures.scored(len(results), sum("failure" in row for row in results))
        return JSONResponse({"results": results, "model": self.models[0].digest})

    def _require_known(self, request: Request) -> None:
        """Turn away who comes under another name, with endless headers, or without the token."""
        # The protocol counts headers that come in pieces; those that come whole are counted here.
        if sum(len(name) + len(value) for name, value in request.headers.raw) > self.limits.max_header_bytes:
            raise TooMuchError(431, f"headers may have {self.limits.max_header_bytes} bytes")
        if not is_our_name(request.headers.get("host", ""), self.hosts):
            raise TooMuchError(421, "this service is not reached under that name: use its address, or allow the name")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.token is not None and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise TooMuchError(401, "this service asks for a token: Authorization: Bearer ..")

    def _require_welcome(self, request: Request) -> None:
        self._require_known(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != TYPE:
            raise TooMuchError(415, f"only {TYPE}")
        self._require_place()

    def _require_place(self) -> None:
        if self.num_pending >= self.max_waiting:
            raise TooMuchError(503, f"{self.max_waiting} requests are waiting")

    async def _wait(self, body: bytes) -> list[dict]:
        """Wait for a device with the whole request in hand: one that never becomes whole takes nobody's place."""
        self._require_place()
        self.num_pending += 1
        try:
            errand = Errand(await asyncio.to_thread(unpack_request, body))
            self._errands.put(errand)
            return pack_scores(await asyncio.wrap_future(errand.result))
        finally:
            self.num_pending -= 1

    async def health(self, request: Request) -> JSONResponse:
        """Tell model, devices and load; devices whose newest scoring failed by name, 503 when no other is left."""
        try:
            self._require_known(request)
        except TooMuchError as error:
            return JSONResponse({"error": error.message}, error.status)
        failures = dict(self.failures)
        all_failed = len(failures) == len(self.models)
        document = {
            "status": "failing" if all_failed else "degraded" if failures else "ok",
            "model": self.models[0].digest,
            "devices": [str(model.device) for model in self.models],
            "pending": self.num_pending,
            "max_waiting": self.max_waiting,
            "scored": self.figures.num_scored,
            **({"failing": [self._fault(place, text) for place, text in sorted(failures.items())]} if failures else {}),
        }
        return JSONResponse(document, 503 if all_failed else 200)

    async def metrics(self, request: Request) -> Response:
        """Tell counters, waits and load in Prometheus' text format."""
        try:
            self._require_known(request)
        except TooMuchError as error:
            return JSONResponse({"error": error.message}, error.status)
        gauges: dict[str, tuple[float, str]] = {
            "idgrpo_requests_pending": (self.num_pending, "Whole requests that wait or are scored."),
            "idgrpo_requests_most": (self.max_waiting, "Requests that may wait or be scored at a time."),
            "idgrpo_bytes_in_flight": (self._bodies.num_bytes, "Bytes of requests that are read or scored."),
            "idgrpo_devices": (len(self.models), "Devices that score."),
            "idgrpo_devices_failing": (len(self.failures), "Devices whose newest call failed."),
        }
        return Response(self.figures.text(gauges), media_type=served.TYPE)

    def _fault(self, place: int, text: str) -> dict:
        return {"place": place, "device": str(self.models[place].device), "error": text}

    def _deal(self) -> None:
        """Give requests to devices that are idle, in turn, until the process ends."""
        while True:
            place = self._idle.get()
            errands = self._take()
            with contextlib.suppress(RuntimeError):  # the process ends
                self._threads.submit(self._work, place, errands)

    def _work(self, place: int, errands: list[Errand]) -> None:
        started_s = time.monotonic()
        try:
            self._do(place, errands)
        except BaseException as error:  # also of a library: whoever waits must get an answer
            for errand in errands:
                if not errand.result.done():
                    errand.result.set_exception(error)
        finally:
            self._idle.put(place)
        self.figures.called([started_s - errand.since_s for errand in errands], time.monotonic() - started_s)

    def _take(self) -> list[Errand]:
        """Wait for a request; with `join`, take also those that wait behind it, up to that many clips."""
        errands = [self._left.pop() if self._left else self._errands.get()]
        while sum(map(len, errands)) < self.join:
            try:
                following = self._errands.get_nowait()
            except queue.Empty:
                break
            if sum(map(len, errands)) + len(following) > self.join:
                self._left.append(following)
                break
            errands.append(following)
        return errands

    def _do(self, place: int, errands: list[Errand]) -> None:
        """Score requests in one call; where that fails, each is scored alone, so that a bad one costs nobody else."""
        if len(errands) > 1:
            columns = zip(*(errand.request for errand in errands), strict=True)
            try:
                scores = iter(
                    self.models[place].score(*([row for part in column for row in part] for column in columns))
                )
            except Exception:
                for errand in errands:
                    self._do(place, [errand])
                return
            for errand in errands:
                errand.result.set_result([next(scores) for _ in range(len(errand))])
            self.failures.pop(place, None)
            return
        (errand,) = errands
        try:
            scores_of_one = self._scored(place, errand.request)
        except Exception as error:
            errand.result.set_exception(error)
            return
        self.failures.pop(place, None)
        errand.result.set_result(scores_of_one)

    def _scored(self, place: int, request: tuple) -> list[Score]:
        model = self.models[place]
        try:
            return model.score(*request)
        except DataError:
            raise
        except Exception as error:
            try:
                model.score(*_plain_request())
            except Exception:  # a device that fell over must be an answer and visible in /health
                self.failures[place] = _text(error)
                raise error from None
        # The device works: something in this request is at fault, and only that goes without a score.
        return [self._alone(model, *row) for row in zip(*request, strict=True)]

    def _alone(self, model: RewardModel, video, photos, prompt: str, fps: float | None) -> Score:
        try:
            return model.score([video], [photos], [prompt], [fps])[0]
        except Exception as error:
            return RewardFailure(_text(error))


def _plain_request() -> tuple:
    """Return a request that every device that works can answer."""
    return [torch.zeros(2, 3, 64, 64, dtype=torch.uint8)], [[torch.zeros(3, 64, 64, dtype=torch.uint8)]], [""], [None]


def _text(error: Exception) -> str:
    return error.message if isinstance(error, IdgrpoError) else f"{type(error).__name__}: {error}"


def make_app(
    models: Sequence[RewardModel],
    *,
    max_waiting: int = 16,
    limits: Limits | None = None,
    hosts: Iterable[str] = (),
    token: str | None = None,
    join: int = 0,
) -> Starlette:
    """Return the web application over models that are all the same, one per device.

    Args:
        max_waiting: requests that may wait or run at one time; further ones get 503.
        limits: what a caller may take of time and memory.
        hosts: names, beside addresses and the machine's own, under which callers may reach it.
        token: what callers must send as `Authorization: Bearer ..`; None asks for nothing.
        join: clips of several waiting requests that are scored in one call; 0 scores each request alone, so that a score
            does not depend in its last digits on who else asked.
    """
    limits = limits or Limits()
    desk = ScoringDesk(models, max_waiting, limits, hosts, token, join)
    routes = [
        Route("/score", desk.score, methods=["POST"]),
        Route("/health", desk.health),
        Route("/metrics", desk.metrics),
    ]
    app = Starlette(routes=routes)
    app.state.limits = limits
    return app


def listen(host: str, port: int) -> socket.socket:
    """Take a port (0: any free one); BusyError when another process has it."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except socket.gaierror:
        raise UsageError(f"there is no host {host} on this machine") from None
    except OSError as error:
        raise BusyError(f"port {port} of {host} cannot be had: {error.strerror}", fix="--port 0 takes any") from None
    listener.listen(BACKLOG)
    return listener


def serve(app: Starlette, listener: socket.socket, should_stop: Callable[[], bool]) -> None:
    """Answer requests until a stop is asked for; what is being scored then still gets its answer."""
    import uvicorn

    settings = uvicorn.Config(
        app,
        http=patient_protocol(app.state.limits),
        ws="none",
        log_level="error",  # callers' broken requests are their own affair
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=DRAIN_S,
        h11_max_incomplete_event_size=app.state.limits.max_header_bytes,
    )
    serve_until(should_stop, settings, listener)

"""Score over HTTP, for callers on another machine: `idgrpo artifacts serve rm --device cuda:0 --device cuda:1`.

POST /score takes a request of `wire.py`; GET /health tells model, devices and load. One model and one worker thread per
device; more waiting requests than allowed are turned away with 503 and Retry-After, so that callers slow down. A caller
that is slow, or whose clips cannot be scored, harms itself alone.
"""

import asyncio
import queue
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from idgrpo.errors import BusyError, DataError, IdgrpoError, UsageError
from idgrpo.reward.score import RewardFailure, RewardModel, Score
from idgrpo.reward.wire import TYPE, pack_scores, unpack_request
from idgrpo.run.limits import BodyReader, Limits, TooMuchError, is_our_name, patient_protocol
from idgrpo.run.serving import serve_until

DRAIN_S = 60
BACKLOG = 1024


class ScoringDesk:
    """The counter of the service: who waits, what was scored, which device is free and which one fell over."""

    def __init__(self, models: Sequence[RewardModel], max_waiting: int, limits: Limits, hosts: Iterable[str]):
        self.models = models
        self.max_waiting = max_waiting
        self.limits = limits
        self.hosts = tuple(hosts)
        self.num_pending = 0
        self.num_scored = 0
        self.failures: dict[int, str] = {}  # place of the model -> why its newest scoring failed
        self._bodies = BodyReader(limits)
        self._idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(models)):
            self._idle.put(place)
        self._threads = ThreadPoolExecutor(len(models), thread_name_prefix="score")

    async def score(self, request: Request) -> JSONResponse:
        """Answer one request with results, or with the reason why there are none."""
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
        self.num_scored += len(results)
        return JSONResponse({"results": results, "model": self.models[0].digest})

    def _require_welcome(self, request: Request) -> None:
        if not is_our_name(request.headers.get("host", ""), self.hosts):
            raise TooMuchError(421, "this service is not reached under that name: use its address, or allow the name")
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
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._work, body)
        finally:
            self.num_pending -= 1

    async def health(self, request: Request) -> JSONResponse:
        """Tell model, devices and load; devices whose newest scoring failed by name, 503 when no other is left."""
        if not is_our_name(request.headers.get("host", ""), self.hosts):
            return JSONResponse({"error": "this service is not reached under that name"}, 421)
        failures = dict(self.failures)
        all_failed = len(failures) == len(self.models)
        document = {
            "status": "failing" if all_failed else "degraded" if failures else "ok",
            "model": self.models[0].digest,
            "devices": [str(model.device) for model in self.models],
            "pending": self.num_pending,
            "max_waiting": self.max_waiting,
            "scored": self.num_scored,
            **({"failing": [self._fault(place, text) for place, text in sorted(failures.items())]} if failures else {}),
        }
        return JSONResponse(document, 503 if all_failed else 200)

    def _fault(self, place: int, text: str) -> dict:
        return {"place": place, "device": str(self.models[place].device), "error": text}

    def _work(self, body: bytes) -> list[dict]:
        request = unpack_request(body)
        place = self._idle.get()
        try:
            results = self._scored(place, request)
        finally:
            self._idle.put(place)
        self.failures.pop(place, None)
        return pack_scores(results)

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
) -> Starlette:
    """Return the web application over models that are all the same, one per device.

    Args:
        max_waiting: requests that may wait or run at one time; further ones get 503.
        limits: what a caller may take of time and memory.
        hosts: names, beside addresses and the machine's own, under which callers may reach it.
    """
    limits = limits or Limits()
    desk = ScoringDesk(models, max_waiting, limits, hosts)
    app = Starlette(routes=[Route("/score", desk.score, methods=["POST"]), Route("/health", desk.health)])
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
    )
    serve_until(should_stop, settings, listener)

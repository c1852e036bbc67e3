"""Score over HTTP, for callers on another machine: `idgrpo artifacts serve rm --device cuda:0 --device cuda:1`.

POST /score takes a request of `wire.py`; GET /health tells model, devices and load. One model and one worker thread per
device; more waiting requests than allowed are turned away with 503 and Retry-After, so that callers slow down.
"""

import asyncio
import queue
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from idgrpo.errors import BusyError, DataError, IdgrpoError, UsageError
from idgrpo.reward.score import RewardModel
from idgrpo.reward.wire import pack_scores, unpack_request
from idgrpo.run.serving import serve_until

DRAIN_S = 60


class Desk:
    """The counter of the service: who waits, what was scored, which device is free and which one fell over."""

    def __init__(self, models: Sequence[RewardModel], max_waiting: int, max_bytes: int):
        self.models = models
        self.max_waiting = max_waiting
        self.max_bytes = max_bytes
        self.num_pending = 0
        self.num_scored = 0
        self.failures: dict[int, str] = {}  # place of the model -> why its newest scoring failed
        self._idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(models)):
            self._idle.put(place)
        self._threads = ThreadPoolExecutor(len(models), thread_name_prefix="score")

    async def score(self, request: Request) -> JSONResponse:
        """Answer one request with results, or with the reason why there are none."""
        if self.num_pending >= self.max_waiting:
            return JSONResponse(
                {"error": f"{self.max_waiting} requests are waiting"}, 503, headers={"Retry-After": "1"}
            )
        self.num_pending += 1
        try:
            body = await self._read(request)
            if body is None:
                return JSONResponse({"error": f"a request may have {self.max_bytes} bytes"}, 413)
            results = await asyncio.get_running_loop().run_in_executor(self._threads, self._work, body)
        except ClientDisconnect:  # nobody reads this; it is no fault of a device
            return JSONResponse({"error": "the caller left before its request was whole"}, 400)
        except DataError as error:
            return JSONResponse({"error": error.message}, 422)
        except Exception as error:
            return JSONResponse({"error": _text(error)}, 500)
        finally:
            self.num_pending -= 1
        self.num_scored += len(results)
        return JSONResponse({"results": results, "model": self.models[0].digest})

    async def health(self, request: Request) -> JSONResponse:
        """Tell model, devices and load; devices whose newest scoring failed by name, 503 when no other is left."""
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

    async def _read(self, request: Request) -> bytes | None:
        # Counted while it comes in: a chunked body states no length.
        stated = request.headers.get("content-length", "0")
        if not (stated.isascii() and stated.isdigit()):
            raise DataError(f"content-length is {stated!r}, not a number of bytes")
        if int(stated) > self.max_bytes:
            return None
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self.max_bytes:
                return None
        return bytes(body)

    def _work(self, body: bytes) -> list[dict]:
        request = unpack_request(body)
        place = self._idle.get()
        try:
            results = self.models[place].score(*request)
        except DataError:
            raise
        except Exception as error:  # a device that fell over must be an answer and visible in /health
            self.failures[place] = _text(error)
            raise
        finally:
            self._idle.put(place)
        self.failures.pop(place, None)
        return pack_scores(results)


def _text(error: Exception) -> str:
    return error.message if isinstance(error, IdgrpoError) else f"{type(error).__name__}: {error}"


def make_app(models: Sequence[RewardModel], *, max_waiting: int = 16, max_bytes: int = 2 * 2**30) -> Starlette:
    """Return the web application over models that are all the same, one per device.

    Args:
        max_waiting: requests that may wait or run at one time; further ones get 503.
        max_bytes: largest request body.
    """
    desk = Desk(models, max_waiting, max_bytes)
    return Starlette(routes=[Route("/score", desk.score, methods=["POST"]), Route("/health", desk.health)])


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
    listener.listen()
    return listener


def serve(app: Starlette, listener: socket.socket, should_stop: Callable[[], bool]) -> None:
    """Answer requests until a stop is asked for; what is being scored then still gets its answer."""
    import uvicorn

    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=DRAIN_S
    )
    serve_until(should_stop, settings, listener)

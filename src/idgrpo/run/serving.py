"""Serve an application until the caller's own signal handling asks to stop."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn

POLL_S = 0.1


def _is_no_cancelled_request(record: logging.LogRecord) -> bool:
    """Leave out requests of slow clients that a stop cuts off: they are counted in one line, and their tracebacks tell nothing."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def serve_until(should_stop: Callable[[], bool], settings: "uvicorn.Config", listener: socket.socket) -> None:
    """Serve on a bound socket until `should_stop`; requests under way are finished. Signals stay the caller's."""
    import uvicorn

    logging.getLogger("uvicorn.error").addFilter(_is_no_cancelled_request)
    server = uvicorn.Server(settings)
    vars(server)["capture_signals"] = nullcontext

    async def run() -> None:
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not serving.done() and not should_stop():
            await asyncio.sleep(POLL_S)
        server.should_exit = True
        await serving

    asyncio.run(run())

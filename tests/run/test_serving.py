"""A server that is stopped while a client is slow."""

import asyncio
import logging
import socket
import threading

import uvicorn

from idgrpo.run.serving import serve_until


def test_a_request_that_a_stop_cuts_off_leaves_no_traceback(caplog):
    """Before, each such request wrote a traceback into the terminal of the annotation page."""
    begun = threading.Event()

    async def endless(scope, receive, send):
        begun.set()
        await asyncio.sleep(60)

    with socket.create_server(("127.0.0.1", 0)) as listener, caplog.at_level(logging.ERROR, "uvicorn.error"):
        settings = uvicorn.Config(endless, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        stop = threading.Event()
        serving = threading.Thread(target=serve_until, args=(stop.is_set, settings, listener))
        serving.start()
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert begun.wait(20)
            stop.set()
            serving.join(30)
        assert not serving.is_alive()
    assert not [record for record in caplog.records if record.exc_info]
    assert "Cancel 1 running task" in caplog.text

"""A small reverse proxy: takes a sub-path away and passes its own Host, as proxies do that are set up in a minute."""

import asyncio
import contextlib
import re
import threading


class Proxy:
    """Listens on a free port and hands `/<prefix>/..` to a server on this machine; connections are kept."""

    def __init__(self, upstream_port: int, prefix: str = "/faces", *, strip: bool = True):
        self.upstream_port, self.prefix, self.strip = upstream_port, prefix, strip
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()

        self._loop.create_task(start())
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
            try:
                while True:
                    await self._pass(reader, up_writer, self._changed)
                    await self._pass(up_reader, writer, bytes)
            finally:
                up_writer.close()
                writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(change(head))
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length:
            writer.write(await reader.readexactly(int(length[1])))
        await writer.drain()

    def _changed(self, head: bytes) -> bytes:
        method, path, rest = head.split(b" ", 2)
        prefix = self.prefix.encode()
        if self.strip and path.startswith(prefix):
            path = path[len(prefix) :] or b"/"
        rest = re.sub(rb"(?im)^host: .*?\r\n", f"host: 127.0.0.1:{self.upstream_port}\r\n".encode(), rest)
        return b" ".join((method, path, rest))

"""A real server in its own process, and a small client that speaks HTTP over one kept connection."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from idgrpo.records.jsonl import write_records
from idgrpo.records.models import Pair


@dataclass
class Server:
    """`idgrpo annotate` on a free port."""

    process: subprocess.Popen
    port: int
    organiser: str = ""
    links: dict[str, str] = field(default_factory=dict)

    def stop(self, number: int = signal.SIGINT, timeout_s: float = 60) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err


def start_server(folder: Path, pairs: list[Pair], *options: str, port: int = 0) -> Server:
    """Start the command and wait for its address."""
    if not (folder / "pairs.jsonl").exists():
        write_records(folder / "pairs.jsonl", pairs)
    command = [sys.executable, "-c", "from idgrpo.cli.main import main; main()", "annotate", "--pairs", str(folder / "pairs.jsonl"),
               "--store", str(folder / "store"), "--port", str(port), "--quiet", *options]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    said = []
    while line := process.stderr.readline():
        said.append(line)
        if (found := re.search(r"organiser: (https?://\S+)", line)) and (port := port or _port(said)):
            return Server(
                process, port, found[1], dict(re.findall(r"^([\w -]+): https?://\S+#enter=(\S+)", "".join(said), re.M))
            )
    raise AssertionError("the server did not start: " + "".join(said))


def _port(said: list[str]) -> int:
    found = re.search(r"http://[^/]*:(\d+)/", "".join(said))
    return int(found[1]) if found else 0


def free_port() -> int:
    """Find a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Client:
    """One annotator's connection; `path` and `origin` are those of a proxy in front of the server."""

    def __init__(self, port: int, name: str, path: str = "", origin: str | None = None):
        self.port, self.name, self.path, self.origin = port, name, path, origin
        self.cookie = ""
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def post(self, what: str, body: dict) -> dict:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self.reader is not None
        data = json.dumps(body if what == "enter" else {"annotator": self.name, **body}).encode()
        extra = (f"origin: {self.origin}\r\n" if self.origin else "") + (
            f"cookie: {self.cookie}\r\n" if self.cookie else ""
        )
        head = f"POST {self.path}/api/{what} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n{extra}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", answer)[1])
        content = json.loads(await self.reader.readexactly(length))
        status = int(answer.split(b" ", 2)[1])
        if found := re.search(rb"(?i)set-cookie: ([^;\r]+)", answer):
            self.cookie = found[1].decode()
        if status != 200:
            raise RuntimeError(f"{what}: {status} {content}")
        return content

    async def vote(self, assignment: str, answer: str = "left", vote_id: str | None = None) -> tuple[str, float]:
        """Vote; returns the vote's id and the seconds until it was acknowledged."""
        vote_id = vote_id or uuid.uuid4().hex
        started = time.perf_counter()
        await self.post("vote", {"assignment": assignment, "vote_id": vote_id, "answer": answer, "seconds": 3.0})
        return vote_id, time.perf_counter() - started

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None

"""What the requests of a session share: writer and reader of its database, settings, and the page's files."""

import asyncio
import sqlite3
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.requests import Request

from idgrpo.annotate import access
from idgrpo.annotate.config import QueueConfig, ServeConfig
from idgrpo.annotate.guidelines import render
from idgrpo.annotate.writer import Writer

COOKIE = "idgrpo_annotate"
PAGE_FILES = (
    "index.html", "style.css", "main.js", "player.js", "outbox.js", "keys.js", "people.js", "view.js", "store.js", "extras.js",
    "organise.html", "organise.js",
)  # fmt: skip


class Desk:
    """What the requests share: the writer, a reading connection, and settings."""

    def __init__(
        self,
        writer: Writer,
        reader: sqlite3.Connection,
        secret: bytes,
        queue_config: QueueConfig,
        serve: ServeConfig,
        *,
        needs_link: bool,
        ask_people: bool = False,
        guidelines: str = "",
    ):
        self.ask_people, self.guidelines = ask_people, render(guidelines)
        self.seen: dict[str, Any] = {}  # the state last told to the organiser, and when it was computed
        self.seen_s, self.looking = 0.0, asyncio.Lock()
        self.writer, self.reader, self.secret = writer, reader, secret
        self.queue, self.serve, self.needs_link = queue_config, serve, needs_link
        self.page = {name: files("idgrpo.annotate").joinpath("page", name).read_bytes() for name in PAGE_FILES}

    async def write(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Run on the writer's thread; returns after the commit."""
        return await asyncio.wrap_future(self.writer.submit(work))

    def owner(self, request: Request) -> str | None:
        """Give the annotator of the request's cookie."""
        cookie = request.cookies.get(COOKIE)
        return access.owner_of(self.reader, cookie) if cookie else None

    @property
    def file(self) -> Path:
        """The database, for those who read it on their own."""
        return Path(self.reader.execute("PRAGMA database_list").fetchone()[2])

    def code(self, annotator: str, num_votes: int) -> str | None:
        """Give the completion code of an annotator who voted often enough."""
        wanted = self.serve.code_after
        return access.completion_code(self.secret, annotator) if 0 < wanted <= num_votes else None

"""The page's server: six small requests, each answered after its commit."""

import asyncio
import hashlib
import mimetypes
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from idgrpo.annotate import queue
from idgrpo.annotate.config import QueueConfig, ServeConfig
from idgrpo.annotate.guard import Guard
from idgrpo.annotate.media import media_file, publish_media
from idgrpo.annotate.writer import Writer
from idgrpo.records.models import Fate
from idgrpo.run.limits import Limits

COOKIE = "idgrpo_annotate"
AT_ONCE = 2048
"""Bodies of the greatest size that may be read at one time."""
PAGE_FILES = ("index.html", "style.css", "main.js", "player.js", "outbox.js", "keys.js", "people.js", "view.js")
MAX_PEOPLE = 64
Name = Annotated[str, StringConstraints(pattern=r"^[\w][\w .@+-]{0,39}$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ClaimBody(_Body):
    """Ask for a pair; `held` are those the page has already."""

    annotator: Name
    held: list[Identifier] = Field([], max_length=16)


class PeopleBody(_Body):
    """What became of each person, as shown: one answer or null per reference."""

    left: list[Fate | None] = Field(max_length=MAX_PEOPLE)
    right: list[Fate | None] = Field(max_length=MAX_PEOPLE)


class VoteBody(_Body):
    """Answer a pair, as shown; `vote_id` is the client's own, so that sending again is harmless."""

    annotator: Name
    assignment: Identifier
    vote_id: Identifier
    answer: Literal["left", "right", "tie", "both_bad", "skip"]
    seconds: float = Field(ge=0, le=86_400)
    reason: str | None = Field(None, max_length=200)
    people: PeopleBody | None = None


class UndoBody(_Body):
    """Take one's vote back."""

    annotator: Name
    vote_id: Identifier


class EnterBody(_Body):
    """Use a one-time link."""

    token: Identifier


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
    ):
        self.ask_people = ask_people
        self.writer, self.reader, self.secret = writer, reader, secret
        self.queue, self.serve, self.needs_link = queue_config, serve, needs_link
        self.page = {name: files("idgrpo.annotate").joinpath("page", name).read_bytes() for name in PAGE_FILES}

    async def write(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Run on the writer's thread; returns after the commit."""
        return await asyncio.wrap_future(self.writer.submit(work))

    def owner(self, request: Request) -> str | None:
        """Give the annotator of the request's cookie."""
        cookie = request.cookies.get(COOKIE)
        if not cookie:
            return None
        row = self.reader.execute("SELECT annotator FROM sessions WHERE digest = ?", (digest(cookie),)).fetchone()
        return row[0] if row else None


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def build_app(desk: Desk, hosts: Iterable[str]) -> Guard:
    """Put the server together: `/` and its files, `/media/<name>`, and POST `/api/...`."""
    handlers = {"me": _me, "enter": _enter, "claim": _claim, "vote": _vote, "undo": _undo}
    routes = [Route(f"/api/{name}", _answering(handler), methods=["POST"]) for name, handler in handlers.items()]
    routes += [Route("/media/{name}", _media), Route("/", _page), Route("/{name}", _page)]
    app = Starlette(routes=routes)
    app.state.desk = desk
    size = desk.serve.max_body_bytes
    limits = Limits(max_bytes=size, max_bytes_in_flight=AT_ONCE * size, min_bytes_per_s=1024)
    return Guard(app, hosts=hosts, limits=limits)


def _answering(handler: Callable) -> Callable:
    async def answer(request: Request) -> Response:
        desk: Desk = request.app.state.desk
        try:
            found = await handler(desk, request)
        except Refused as error:
            return JSONResponse({"error": str(error)}, error.status)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return JSONResponse({"error": f"{where}: {first['msg']}" if where else first["msg"]}, 400)
        except queue.ConflictError as error:
            return JSONResponse({"error": str(error)}, 409)
        except (sqlite3.Error, RuntimeError):
            return JSONResponse({"error": "not saved; try again"}, 503)
        return found if isinstance(found, Response) else JSONResponse(found, headers={"cache-control": "no-store"})

    return answer


async def _read(desk: Desk, request: Request, kind: type[_Body]) -> Any:
    body = kind.model_validate_json(await request.body())
    annotator = getattr(body, "annotator", None)
    if desk.needs_link and annotator is not None and desk.owner(request) != annotator:
        raise Refused(403, "open your own link first")
    return body


async def _me(desk: Desk, request: Request) -> dict[str, Any]:
    await _read(desk, request, _Body)
    return {
        "annotator": desk.owner(request), "needs_link": desk.needs_link, "unlock": desk.serve.unlock,
        "ask_people": desk.ask_people,
        "session": digest(desk.secret.hex())[:16],  # so that votes kept in a browser never reach another session
    }  # fmt: skip


async def _enter(desk: Desk, request: Request) -> Response:
    body = await _read(desk, request, EnterBody)
    cookie = secrets.token_urlsafe(24)

    def use(database: sqlite3.Connection) -> str | None:
        row = database.execute(
            "UPDATE sessions SET used = 1 WHERE digest = ? AND used = 0 RETURNING annotator", (digest(body.token),)
        ).fetchone()
        if row is None:
            return None
        database.execute("INSERT INTO sessions VALUES (?, ?, 1)", (digest(cookie), row[0]))
        return row[0]

    annotator = await desk.write(use)
    if annotator is None:
        raise Refused(403, "this link was used already; ask for another")
    response = JSONResponse({"annotator": annotator}, headers={"cache-control": "no-store"})
    response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return response


def add_link(database: sqlite3.Connection, annotator: str) -> str:
    """Make a one-time token for an annotator; only its digest is stored."""
    token = secrets.token_urlsafe(24)
    database.execute("INSERT INTO sessions VALUES (?, ?, 0)", (digest(token), annotator))
    return token


def digest(token: str) -> str:
    """Give what is stored of a secret."""
    return hashlib.sha256(token.encode()).hexdigest()


async def _claim(desk: Desk, request: Request) -> dict[str, Any]:
    body: ClaimBody = await _read(desk, request, ClaimBody)

    def work(database: sqlite3.Connection) -> dict[str, Any]:
        got = queue.claim(database, body.annotator, body.held, desk.queue, time.time())
        shown = None if got is None else _shown(database, desk.secret, got)
        return {"pair": shown, "progress": queue.progress(database, body.annotator, desk.queue)}

    return await desk.write(work)


def _shown(database: sqlite3.Connection, secret: bytes, got: queue.Assignment) -> dict[str, Any]:
    """Describe a pair to the page; nothing here tells generators, sides or kinds apart."""
    pair = got.pair
    sides = (pair.video_a, pair.video_b) if got.a_is_left else (pair.video_b, pair.video_a)
    clips = []
    for path in sides:
        name, clip = publish_media(database, secret, path)
        clips.append({"url": f"/media/{name}", "fps": clip.fps, "frames": clip.frames})
    references = [
        {
            "person": reference.person,
            "images": [f"/media/{publish_media(database, secret, image)[0]}" for image in reference.images],
        }
        for reference in pair.references
    ]
    return {
        "assignment": got.token,
        "prompt": pair.prompt,
        "dimension": pair.dimension,
        "references": references,
        "left": clips[0],
        "right": clips[1],
    }


async def _vote(desk: Desk, request: Request) -> dict[str, Any]:
    body: VoteBody = await _read(desk, request, VoteBody)
    if body.answer == "skip" and not (body.reason or "").strip():
        raise Refused(400, "a skip needs a reason")

    def work(database: sqlite3.Connection) -> dict[str, Any]:
        new = queue.record_vote(
            database,
            body.annotator,
            body.assignment,
            body.vote_id,
            body.answer,
            body.seconds,
            body.reason,
            desk.queue,
            _now(),
            None if body.people is None else body.people.model_dump(),
        )
        return {"saved": body.vote_id, "new": new, "progress": queue.progress(database, body.annotator, desk.queue)}

    return await desk.write(work)


async def _undo(desk: Desk, request: Request) -> dict[str, Any]:
    body: UndoBody = await _read(desk, request, UndoBody)

    def work(database: sqlite3.Connection) -> dict[str, Any]:
        queue.undo_vote(database, body.annotator, body.vote_id, desk.queue, time.time(), _now())
        return {"undone": body.vote_id, "progress": queue.progress(database, body.annotator, desk.queue)}

    return await desk.write(work)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


async def _media(request: Request) -> Response:
    desk: Desk = request.app.state.desk
    if desk.needs_link and desk.owner(request) is None:
        return JSONResponse({"error": "open your own link first"}, 403)
    found = media_file(desk.reader, request.path_params["name"])
    if found is None:
        return JSONResponse({"error": "there is no such file"}, 404)
    return FileResponse(found[0], media_type=found[1], headers={"cache-control": "private, max-age=86400, immutable"})


async def _page(request: Request) -> Response:
    desk: Desk = request.app.state.desk
    name = request.path_params.get("name", "index.html")
    if name not in desk.page:
        return JSONResponse({"error": "there is no such page"}, 404)
    kind = mimetypes.guess_type(name)[0] or "text/plain"
    return Response(desk.page[name], media_type=kind, headers={"cache-control": "no-cache"})

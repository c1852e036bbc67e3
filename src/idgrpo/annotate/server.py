"""The page's server: small requests, each answered after its commit; those of the organiser are in `organise`."""

import asyncio
import mimetypes
import sqlite3
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from idgrpo.annotate import access, organise, queue
from idgrpo.annotate.bodies import Body, ClaimBody, EnterBody, NamedBody, Refused, UndoBody, VoteBody
from idgrpo.annotate.config import QueueConfig, ServeConfig
from idgrpo.annotate.guard import Guard, base_path, public_host
from idgrpo.annotate.guidelines import render
from idgrpo.annotate.media import media_file, publish_media
from idgrpo.annotate.writer import Writer
from idgrpo.run.limits import Limits

COOKIE = "idgrpo_annotate"
AT_ONCE = 2048
"""Bodies of the greatest size that may be read at one time."""
PAGE_FILES = (
    "index.html", "style.css", "main.js", "player.js", "outbox.js", "keys.js", "people.js", "view.js", "store.js", "extras.js",
    "organise.html", "organise.js",
)  # fmt: skip
OWN_VOTES = 200


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


def build_app(desk: Desk, hosts: Iterable[str]) -> Guard:
    """Put the server together: `/` and its files, `/media/<name>`, and POST `/api/...`."""
    handlers = {"me": _me, "enter": _enter, "claim": _claim, "vote": _vote, "undo": _undo, "votes": _votes}
    handlers |= {f"organise/{name}": handler for name, handler in organise.HANDLERS.items()}
    routes = [Route(f"/api/{name}", _answering(handler), methods=["POST"]) for name, handler in handlers.items()]
    routes += [Route("/media/{name}", _media), Route("/", _page), Route("/{name}", _page)]
    app = Starlette(routes=routes)
    app.state.desk = desk
    size = desk.serve.max_body_bytes
    limits = Limits(max_bytes=size, max_bytes_in_flight=AT_ONCE * size, min_bytes_per_s=1024)
    own = public_host(desk.serve.public_url)
    origins = {name.lower() for name in desk.serve.names} | ({own} if own else set())
    return Guard(app, hosts=hosts, limits=limits, origins=origins, base=base_path(desk.serve.public_url))


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


async def _read(desk: Desk, request: Request, kind: type[Body]) -> Any:
    body = kind.model_validate_json(await request.body())
    annotator = getattr(body, "annotator", None)
    if desk.needs_link and annotator is not None and desk.owner(request) != annotator:
        raise Refused(403, "open your own link first")
    return body


async def _me(desk: Desk, request: Request) -> dict[str, Any]:
    await _read(desk, request, Body)
    return {
        "annotator": desk.owner(request), "needs_link": desk.needs_link, "unlock": desk.serve.unlock,
        "ask_people": desk.ask_people, "guidelines": desk.guidelines, "code_after": desk.serve.code_after,
        "session": access.digest(desk.secret.hex())[:16],  # so that votes kept in a browser never reach another session
    }  # fmt: skip


async def _enter(desk: Desk, request: Request) -> Response:
    body = await _read(desk, request, EnterBody)
    got = await desk.write(lambda database: access.use_link(database, body.token, time.time()))
    if got is None:
        raise Refused(403, "this link was used already, has expired or was revoked; ask for another")
    annotator, cookie = got
    response = JSONResponse({"annotator": annotator}, headers={"cache-control": "no-store"})
    # Behind a proxy the request comes in plain; the page's own address tells how browsers reach it.
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https:")
    path = base_path(desk.serve.public_url) + "/"
    response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=secure, path=path)
    return response


async def _votes(desk: Desk, request: Request) -> dict[str, Any]:
    body: NamedBody = await _read(desk, request, NamedBody)
    return {"votes": queue.own_votes(desk.reader, body.annotator, OWN_VOTES)}


async def _claim(desk: Desk, request: Request) -> dict[str, Any]:
    body: ClaimBody = await _read(desk, request, ClaimBody)

    def work(database: sqlite3.Connection) -> dict[str, Any]:
        got = queue.claim(database, body.annotator, body.held, desk.queue, time.time())
        shown = None if got is None else _shown(database, desk.secret, got)
        return {"pair": shown, "progress": _progress(desk, database, body.annotator)}

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
        **({"practice": True} if got.kind == "practice" else {}),
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
        feedback = queue.practice_feedback(database, body.assignment, body.answer)
        answer = {"saved": body.vote_id, "new": new, "progress": _progress(desk, database, body.annotator)}
        return answer if feedback is None else {**answer, "feedback": feedback}

    return await desk.write(work)


async def _undo(desk: Desk, request: Request) -> dict[str, Any]:
    body: UndoBody = await _read(desk, request, UndoBody)

    def work(database: sqlite3.Connection) -> dict[str, Any]:
        queue.undo_vote(database, body.annotator, body.vote_id, desk.queue, time.time(), _now())
        return {"undone": body.vote_id, "progress": _progress(desk, database, body.annotator)}

    return await desk.write(work)


def _progress(desk: Desk, database: sqlite3.Connection, annotator: str) -> dict[str, Any]:
    found: dict[str, Any] = queue.progress(database, annotator, desk.queue)
    code = desk.code(annotator, found["mine"])
    return found if code is None else {**found, "code": code}


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

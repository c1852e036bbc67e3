"""The organiser's requests: the state of the session, links made and revoked, votes so far. Each carries the token."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from idgrpo.annotate import access, queue
from idgrpo.annotate.bodies import Body, Identifier, Name, Refused
from idgrpo.annotate.schema import open_database
from idgrpo.annotate.watch import session_status

if TYPE_CHECKING:
    from idgrpo.annotate.server import Desk

FRESH_S = 2.0  # how long a computed state is given out again


class StatusBody(Body):
    """Ask how the session goes."""

    token: Identifier


class LinkBody(StatusBody):
    """Make a one-time link for a person."""

    annotator: Name


class RevokeBody(StatusBody):
    """Revoke a link and what was opened with it."""

    link: Identifier


async def _read(desk: "Desk", request: Request, kind: type[StatusBody]) -> Any:
    body = kind.model_validate_json(await request.body())
    if not access.is_organiser(desk.reader, body.token):
        raise Refused(403, "this needs the organiser's address, which the terminal shows at the start")
    return body


async def status(desk: "Desk", request: Request) -> dict[str, Any]:
    """Give totals, annotators and links; computed on a thread, so that nobody's vote waits for it."""
    await _read(desk, request, StatusBody)
    now_s = time.time()
    async with desk.looking:
        if now_s - desk.seen_s > FRESH_S:
            desk.seen, desk.seen_s = await asyncio.to_thread(_look, desk, now_s), now_s
    return {**desk.seen, "links": access.list_links(desk.reader, now_s), "needs_link": desk.needs_link}


def _look(desk: "Desk", now_s: float) -> dict[str, Any]:
    database = open_database(desk.file)
    try:
        found = session_status(database, desk.queue, now_s)
    finally:
        database.close()
    for row in found["annotators"] if desk.serve.code_after else ():
        row["code"] = access.completion_code(desk.secret, row["annotator"])
        row["complete"] = row["votes"] >= desk.serve.code_after
    return found


async def link(desk: "Desk", request: Request) -> dict[str, Any]:
    """Make a link; its token is told once and never stored."""
    body: LinkBody = await _read(desk, request, LinkBody)
    expires = time.time() + 3600 * desk.serve.link_hours
    token = await desk.write(lambda database: access.add_link(database, body.annotator, expires))
    return {"annotator": body.annotator, "enter": token, "expires": expires}


async def revoke(desk: "Desk", request: Request) -> dict[str, Any]:
    """Revoke a link."""
    body: RevokeBody = await _read(desk, request, RevokeBody)
    if not await desk.write(lambda database: access.revoke(database, body.link)):
        raise Refused(404, "there is no such link")
    return {"revoked": body.link}


async def export(desk: "Desk", request: Request) -> Response:
    """Give every vote so far as JSON Lines; the session goes on."""
    await _read(desk, request, StatusBody)

    def lines() -> str:
        database = open_database(desk.file)
        try:
            return "".join(vote.model_dump_json() + "\n" for vote in queue.read_votes(database))
        finally:
            database.close()

    text = await asyncio.to_thread(lines)
    return Response(text, media_type="application/x-ndjson", headers={"cache-control": "no-store"})


HANDLERS: dict[str, Callable] = {"status": status, "link": link, "revoke": revoke, "export": export}

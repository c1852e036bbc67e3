"""The door of the page's server: hosts, origins, body size and content policy, before anything else is done."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from idgrpo.run.limits import BodyReader, Limits, TooMuchError

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Refuses what a page of ours would never send.

    A foreign Host is refused (a name that someone else points at this machine), a POST must come from our own page
    (Origin and Sec-Fetch-Site) and be JSON (a form of another site cannot), and a body may not exceed its limit.

    Args:
        origins: public names of the page: a proxy may pass its own Host, and then Origin differs from it.
        base: the path under which the page is reached, such as /faces; a proxy may leave it in the path or take it away.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str], limits: Limits, origins: Iterable[str] = (), base: str = ""
    ):
        self.app, self.base = app, base
        self.hosts = {host.lower() for host in hosts}
        self.origins = set(origins)
        self.limits = limits
        self._bodies = BodyReader(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        if self.base and scope["path"] == self.base:  # relative addresses need the slash
            await RedirectResponse(f"{self.base}/")(scope, receive, send)
            return
        if self.base and scope["path"].startswith(f"{self.base}/"):
            path = scope["path"][len(self.base) :]
            scope = {**scope, "path": path, "raw_path": path.encode()}

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal:
            await JSONResponse({"error": refusal[1]}, refusal[0])(scope, receive, send_guarded)
            return
        if scope["method"] != "POST":
            await self.app(scope, receive, send_guarded)
            return
        try:
            body = await self._bodies.read(Request(scope, receive))
        except ClientDisconnect:  # nobody waits for an answer
            return
        except TooMuchError as error:
            # What is left of the body is not waited for.
            refused = JSONResponse({"error": error.message}, error.status, headers={"connection": "close"})
            await refused(scope, receive, send_guarded)
            return
        try:
            await self.app(scope, _replay(body), send_guarded)
        finally:
            self._bodies.release(body)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        if host_name(headers.get("host", "")) not in self.hosts:
            return 421, "this server is not reached under that name"
        if method in ("GET", "HEAD"):
            return None
        if method != "POST":
            return 405, "only GET and POST"
        origin = headers.get("origin")
        if origin is not None and not self._is_ours(origin, headers["host"]):
            return 403, "the request comes from another site"
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return 403, "the request comes from another site"
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return 415, "only application/json"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self.limits.max_bytes:
            return 413, "the body is too large"
        return None

    def _is_ours(self, origin: str, host: str) -> bool:
        place = urlsplit(origin)
        return place.netloc.lower() == host.lower() or (place.hostname or "") in self.origins


def public_host(public_url: str | None) -> str | None:
    """Give the name in the public address of the page."""
    return urlsplit(public_url).hostname if public_url else None


def base_path(public_url: str | None) -> str:
    """Give the path of the public address without the slash at its end: '' at the root, else such as /faces."""
    return urlsplit(public_url).path.rstrip("/") if public_url else ""


def host_name(host: str) -> str:
    """Give the name in a Host header, without the port."""
    if host.startswith("["):
        return host.partition("]")[0].lstrip("[").lower()
    return host.partition(":")[0].lower()


def _replay(body: bytes) -> Receive:
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive

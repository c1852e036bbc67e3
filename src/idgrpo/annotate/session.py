"""A session with people: fill the queue, serve the page until told to stop, and give back what was voted."""

import hashlib
import ipaddress
import json
import secrets
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from idgrpo.annotate import queue
from idgrpo.annotate.access import add_link, new_organiser
from idgrpo.annotate.config import QueueConfig, ServeConfig
from idgrpo.annotate.guidelines import read_guidelines
from idgrpo.annotate.media import check_media
from idgrpo.annotate.schema import naming_damage, open_database
from idgrpo.errors import BusyError, UsageError
from idgrpo.records.models import Pair, Vote
from idgrpo.run.serving import serve_until

DATABASE_FILE = "session.sqlite"
BACKLOG = 1024
STATUS_EVERY_S = 5.0


@dataclass(frozen=True)
class Gathered:
    """What a session holds: votes that stand, and the known labels of its gold pairs."""

    votes: list[Vote]
    gold: dict[str, str]


def serve_session(
    pairs: Sequence[Pair],
    folder: Path,
    queue_config: QueueConfig,
    serve: ServeConfig,
    *,
    gold: Sequence[tuple[Pair, str]] = (),
    practice: Sequence[tuple[Pair, str]] = (),
    annotators: Sequence[str] = (),
    transcode: bool = False,
    ask_people: bool = False,
    tell: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Gathered:
    """Serve the page for these pairs until `should_stop()`; a session begun in `folder` goes on where it was.

    Args:
        practice: pairs with their known answers that everybody sees first, with feedback; they give no votes.
        annotators: names that get a one-time link each; needed unless `serve.host` is loopback.
        transcode: re-encode clips that browsers cannot play.
        ask_people: let the page ask what became of each person in each clip.
        tell: takes the address, or the links.

    Errors: UsageError for a public host without annotators, or a session begun with other pairs; DataError for clips
    the page cannot show; BusyError if the port is taken.
    """
    needs_link = not is_loopback(serve.host) or serve.public_url is not None
    hosts = allowed_hosts(serve)
    guidelines = read_guidelines(serve.guidelines)
    if needs_link and not annotators:
        raise UsageError(
            f"{serve.public_url or serve.host} can be reached from other machines: every annotator needs a link",
            fix="name them with --annotator, or serve on 127.0.0.1",
        )
    folder.mkdir(parents=True, exist_ok=True)
    database = open_database(folder / DATABASE_FILE)
    try:
        with naming_damage(folder / DATABASE_FILE):
            prepare(database, pairs, queue_config, folder, gold=gold, practice=practice, transcode=transcode)
            listener = _listen(serve)
            port = listener.getsockname()[1]
            root = serve.public_url or f"http://{_shown_host(serve)}:{port}/"
            root = root if root.endswith("/") else root + "/"
            expires = time.time() + 3600 * serve.link_hours
            with _transaction(database):
                links = {name: add_link(database, name, expires) for name in annotators}
                organiser = new_organiser(database)
            for line in [f"{name}: {root}#enter={token}" for name, token in links.items()] or [f"open {root}"]:
                tell(line)
            tell(f"organiser: {root}organise.html#token={organiser}")
            _run_server(
                database, folder, listener, hosts, queue_config, serve, needs_link=needs_link, ask_people=ask_people,
                guidelines=guidelines, should_stop=should_stop,
            )  # fmt: skip
            return Gathered(list(queue.read_votes(database)), queue.gold_labels(database))
    finally:
        database.close()


def prepare(
    database: sqlite3.Connection,
    pairs: Sequence[Pair],
    config: QueueConfig,
    folder: Path,
    *,
    gold: Sequence[tuple[Pair, str]] = (),
    practice: Sequence[tuple[Pair, str]] = (),
    transcode: bool = False,
) -> None:
    """Check the clips and fill the queue, once; a crash in between leaves nothing half done."""
    with _transaction(database):
        check_media(
            database, [*pairs, *(pair for pair, _ in (*gold, *practice))], folder / "mended", transcode=transcode
        )
    with _transaction(database):
        if not queue.check_same(database, _fingerprint(pairs, gold, practice, config)):
            queue.fill(database, pairs, gold, practice)
            database.execute("INSERT INTO meta VALUES ('secret', ?)", (secrets.token_hex(32),))


def _fingerprint(
    pairs: Sequence[Pair],
    gold: Sequence[tuple[Pair, str]],
    practice: Sequence[tuple[Pair, str]],
    config: QueueConfig,
) -> dict[str, str]:
    names = hashlib.sha256()
    for pair in pairs:
        names.update(pair.pair_id.encode() + b"\n")
    # lease_s may change between two starts; everything else decides who sees what
    fixed = config.model_dump_json(exclude={"lease_s"})
    return {
        "list of pairs": names.hexdigest(),
        "list of gold pairs": _answers(gold),
        "queue setting": fixed,
        **({"list of practice pairs": _answers(practice)} if practice else {}),
    }


def _answers(known: Sequence[tuple[Pair, str]]) -> str:
    text = json.dumps(sorted((pair.pair_id, label) for pair, label in known))
    return hashlib.sha256(text.encode()).hexdigest()


def _run_server(
    database: sqlite3.Connection,
    folder: Path,
    listener: socket.socket,
    hosts: set[str],
    queue_config: QueueConfig,
    serve: ServeConfig,
    *,
    needs_link: bool,
    ask_people: bool,
    guidelines: str,
    should_stop: Callable[[], bool],
) -> None:
    import uvicorn

    from idgrpo.annotate.server import Desk, build_app
    from idgrpo.annotate.writer import Writer
    from idgrpo.run.limits import patient_protocol

    (secret,) = database.execute("SELECT value FROM meta WHERE key = 'secret'").fetchone()
    reader = open_database(folder / DATABASE_FILE)
    writer = Writer(database)
    try:
        desk = Desk(
            writer, reader, bytes.fromhex(secret), queue_config, serve, needs_link=needs_link, ask_people=ask_people,
            guidelines=guidelines,
        )  # fmt: skip
        app = build_app(desk, hosts)
        settings = uvicorn.Config(
            app, http=patient_protocol(app.limits), ws="none", server_header=False, lifespan="off",
            log_level="error", access_log=False,  # broken requests are their sender's own affair, and could fill a disk
            timeout_graceful_shutdown=int(serve.drain_s), timeout_keep_alive=30,
        )  # fmt: skip
        with watching(desk.file, queue_config):
            serve_until(should_stop, settings, listener)  # our caller owns the signals: it still has to publish
    finally:
        writer.close()
        reader.close()
        listener.close()


def _listen(serve: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in serve.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((serve.host, serve.port))
    except OSError as error:
        listener.close()
        raise BusyError(
            f"cannot listen on {serve.host}:{serve.port}: {error.strerror}",
            fix="choose another with --port, or 0 for any free one",
        ) from None
    listener.listen(BACKLOG)
    return listener


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(serve: ServeConfig) -> set[str]:
    """Give the names in the Host header that are ours. Errors: UsageError for a wildcard address without names."""
    public = urlsplit(serve.public_url).hostname if serve.public_url else None
    named = [*serve.names, *([public] if public else [])]
    if is_loopback(serve.host):
        return {serve.host, "localhost", "127.0.0.1", "::1", *named}
    if serve.host in ("0.0.0.0", "::"):
        if not named:
            raise UsageError(
                f"{serve.host} listens everywhere: say under which names the page is reached",
                fix="""such as --set 'serve.names=["annotate.example.org"]'""",
            )
        return set(named)
    return {serve.host, *named}


def _shown_host(serve: ServeConfig) -> str:
    host = serve.names[0] if serve.names else serve.host
    return f"[{host}]" if ":" in host else host


@contextmanager
def watching(file: Path, config: QueueConfig) -> Iterator[None]:
    """Show the state of the session in one line of the terminal; nothing where stderr is none."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    from idgrpo.annotate.watch import session_status, status_line

    done = threading.Event()
    with Console(stderr=True).status("waiting for the first vote") as line:

        def look() -> None:
            database = open_database(file)
            while not done.wait(STATUS_EVERY_S):
                line.update(status_line(session_status(database, config, time.time())))
            database.close()

        watcher = threading.Thread(target=look, name="annotate-status", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


@contextmanager
def _transaction(database: sqlite3.Connection):
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")

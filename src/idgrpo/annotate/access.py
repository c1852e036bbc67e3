"""Who may do what: one-time links, the cookies got with them, the organiser's token, completion codes. Only digests are stored."""

import hashlib
import hmac
import secrets
import sqlite3
from typing import Any

ORGANISER = "organiser"
CODE_LETTERS = 10


def digest(token: str) -> str:
    """Give what is stored of a secret."""
    return hashlib.sha256(token.encode()).hexdigest()


def add_link(database: sqlite3.Connection, annotator: str, expires: float | None = None) -> str:
    """Make a one-time token for an annotator, which nobody can use after `expires` (seconds since the epoch)."""
    token = secrets.token_urlsafe(24)
    database.execute(
        "INSERT INTO sessions (digest, annotator, used, expires) VALUES (?, ?, 0, ?)",
        (digest(token), annotator, expires),
    )
    return token


def use_link(database: sqlite3.Connection, token: str, now_s: float) -> tuple[str, str] | None:
    """Exchange a link's token for a cookie: (annotator, cookie), or None for a link that is used, revoked or expired."""
    row = database.execute(
        "UPDATE sessions SET used = 1 WHERE digest = ? AND used = 0 AND link IS NULL AND revoked = 0 "
        "AND (expires IS NULL OR expires > ?) RETURNING annotator",
        (digest(token), now_s),
    ).fetchone()
    if row is None:
        return None
    cookie = secrets.token_urlsafe(24)
    database.execute(
        "INSERT INTO sessions (digest, annotator, used, link) VALUES (?, ?, 1, ?)",
        (digest(cookie), row[0], digest(token)),
    )
    return row[0], cookie


def owner_of(database: sqlite3.Connection, cookie: str) -> str | None:
    """Give the annotator of a cookie; None for an unknown or revoked one."""
    row = database.execute(
        "SELECT annotator FROM sessions WHERE digest = ? AND used = 1 AND revoked = 0", (digest(cookie),)
    ).fetchone()
    return row[0] if row else None


def list_links(database: sqlite3.Connection, now_s: float) -> list[dict[str, Any]]:
    """List links by the first letters of their digest, with what became of each: open, used, expired or revoked."""
    rows = database.execute(
        "SELECT digest, annotator, used, expires, revoked FROM sessions WHERE link IS NULL ORDER BY annotator, digest"
    ).fetchall()
    return [
        {
            "id": name[:16], "annotator": annotator, "expires": expires,
            "state": "revoked" if revoked else "used" if used else "expired" if expires and expires <= now_s else "open",
        }
        for name, annotator, used, expires, revoked in rows
    ]  # fmt: skip


def revoke(database: sqlite3.Connection, identity: str) -> bool:
    """Revoke a link and every cookie got with it; False for an unknown one. Votes stay."""
    row = database.execute(
        "SELECT digest FROM sessions WHERE link IS NULL AND substr(digest, 1, 16) = ?", (identity,)
    ).fetchone()
    if row is None:
        return False
    database.execute("UPDATE sessions SET revoked = 1 WHERE digest = ? OR link = ?", (row[0], row[0]))
    return True


def new_organiser(database: sqlite3.Connection) -> str:
    """Make the organiser's token; the one of an earlier start ends."""
    token = secrets.token_urlsafe(24)
    database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (ORGANISER, digest(token)))
    return token


def is_organiser(database: sqlite3.Connection, token: str) -> bool:
    """Tell whether a token is the organiser's."""
    row = database.execute("SELECT value FROM meta WHERE key = ?", (ORGANISER,)).fetchone()
    return row is not None and hmac.compare_digest(row[0], digest(token))


def completion_code(secret: bytes, annotator: str) -> str:
    """Give the code that proves an annotator's work to the organiser: the same in every start of a session."""
    return hmac.new(secret, b"code:" + annotator.encode(), hashlib.sha256).hexdigest()[:CODE_LETTERS].upper()

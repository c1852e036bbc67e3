"""The session's database: tables, pragmas, and the check that write-ahead logging works on this disk."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idgrpo.errors import FULL_DISK, ArtifactError

SCHEMA_VERSION = 3
GOLD_START = 2**40  # gold pairs stand behind every possible plain pair
PRACTICE_START = 2**41  # and practice pairs behind those
log = logging.getLogger(__name__)

# `taken` counts leases and votes of different annotators, `open` says taken < overlap. `returned` lists open pairs that
# an annotator's cursor may have passed: those whose lease lapsed or whose vote was undone. Votes are only ever added;
# an undone vote gets a row in `undone`. No addresses, no user agents: an annotator is the name he gave.
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pairs (position INTEGER PRIMARY KEY, pair_id TEXT NOT NULL UNIQUE, body TEXT NOT NULL, gold TEXT,
    taken INTEGER NOT NULL DEFAULT 0, open INTEGER NOT NULL);
CREATE INDEX pairs_open ON pairs (position) WHERE open = 1;
CREATE TABLE returned (position INTEGER PRIMARY KEY);
CREATE TABLE annotators (name TEXT PRIMARY KEY, cursor INTEGER NOT NULL DEFAULT 0, gold_cursor INTEGER NOT NULL,
    num_shown INTEGER NOT NULL DEFAULT 0, num_slots INTEGER NOT NULL DEFAULT 0, num_answers INTEGER NOT NULL DEFAULT 0,
    num_plain INTEGER NOT NULL DEFAULT 0, num_undone INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE assignments (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, annotator TEXT NOT NULL,
    position INTEGER NOT NULL, kind TEXT NOT NULL, a_is_left INTEGER NOT NULL, state TEXT NOT NULL, expires REAL NOT NULL,
    answered INTEGER, repeated INTEGER NOT NULL DEFAULT 0, UNIQUE (annotator, position, kind));
CREATE INDEX assignments_leased ON assignments (expires) WHERE state = 'leased';
CREATE INDEX assignments_held ON assignments (annotator, id) WHERE state = 'leased';
CREATE INDEX assignments_repeatable ON assignments (annotator, answered)
    WHERE state = 'voted' AND kind = 'plain' AND repeated = 0;
CREATE TABLE votes (serial INTEGER PRIMARY KEY, vote_id TEXT NOT NULL UNIQUE, assignment INTEGER NOT NULL,
    pair_id TEXT NOT NULL, annotator TEXT NOT NULL, answer TEXT NOT NULL, shown TEXT NOT NULL, a_is_left INTEGER NOT NULL,
    seconds REAL NOT NULL, kind TEXT NOT NULL, reason TEXT, time_utc TEXT NOT NULL, people TEXT);
CREATE INDEX votes_of_annotator ON votes (annotator, serial);
CREATE TABLE undone (vote_id TEXT PRIMARY KEY, time_utc TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE media (id TEXT PRIMARY KEY, path TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE checked (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, clip TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sessions (digest TEXT PRIMARY KEY, annotator TEXT NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
"""
SINCE_1 = "ALTER TABLE votes ADD COLUMN people TEXT;"
# `link`: of a cookie, the digest of the link that it was got with. `practised`: the last practice pair that was shown.
SINCE_2 = f"""
ALTER TABLE sessions ADD COLUMN link TEXT;
ALTER TABLE sessions ADD COLUMN expires REAL;
ALTER TABLE sessions ADD COLUMN revoked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE annotators ADD COLUMN practised INTEGER NOT NULL DEFAULT {PRACTICE_START};
"""


def open_database(path: Path) -> sqlite3.Connection:
    """Open or create a session's database, durable at every commit.

    Write-ahead logging needs shared memory, which some network disks lack: there the rollback journal is used, slower
    and as safe. Errors: ArtifactError if the file is no database or of another version.
    """
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    try:
        mode = _journal(database)
        if mode != "wal":
            log.warning("%s: write-ahead logging does not work on this disk; using the %s journal", path, mode)
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA cache_size = -65536")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version < SCHEMA_VERSION:
            steps = {0: TABLES + SINCE_2, 1: SINCE_1 + SINCE_2, 2: SINCE_2}[version]
            database.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{path}: a session of format {version}; this version reads format {SCHEMA_VERSION}",
                fix="use the version of idgrpo that made it, or another --name",
            )
        else:
            with naming_damage(path):
                (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
                if found != "ok":
                    raise sqlite3.DatabaseError(found)
    except sqlite3.DatabaseError as error:
        database.close()
        raise ArtifactError(
            f"{path}: not a session database ({error})", fix="move it away, or use another --name"
        ) from error
    except ArtifactError:
        database.close()
        raise
    return database


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn what SQLite says about a damaged session into an ArtifactError; a full disk stays what it is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if any(text in str(error) for text in FULL_DISK):
            raise
        raise ArtifactError(
            f"{path} is damaged ({error})",
            fix="restore it from a copy, or save its votes with `sqlite3 FILE .recover`, and use another --name",
        ) from error


def _journal(database: sqlite3.Connection) -> str:
    try:
        (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode == "wal":  # some disks accept the mode and fail at the first write
            database.execute("BEGIN IMMEDIATE")
            database.execute("CREATE TABLE wal_probe (x)")
            database.execute("ROLLBACK")
            return mode
    except sqlite3.OperationalError as error:
        log.debug("write-ahead logging failed: %s", error)
        if database.in_transaction:
            database.execute("ROLLBACK")
    (mode,) = database.execute("PRAGMA journal_mode = DELETE").fetchone()
    return mode

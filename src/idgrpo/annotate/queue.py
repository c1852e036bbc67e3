"""The queue of pairs: who gets which pair next, on which sides, and what was answered. Functions of one transaction."""

import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from idgrpo.annotate.config import QueueConfig
from idgrpo.annotate.schema import GOLD_START, PRACTICE_START
from idgrpo.annotate.sides import a_is_left, meant_to_shown, shown_to_meant
from idgrpo.errors import UsageError
from idgrpo.records.models import Pair, Vote
from idgrpo.run.draws import seed_of

MAX_HELD = 4  # leases of one annotator: the pair on the screen and those fetched ahead
SWEEP = 64  # lapsed leases taken back at one claim


class ConflictError(ValueError):
    """A vote or undo that contradicts what is stored."""


@dataclass(frozen=True)
class Assignment:
    """A pair in one annotator's hands."""

    token: str
    kind: str
    a_is_left: bool
    pair: Pair


def fill(
    database: sqlite3.Connection,
    pairs: Iterable[Pair],
    gold: Iterable[tuple[Pair, str]] = (),
    practice: Iterable[tuple[Pair, str]] = (),
) -> int:
    """Put pairs into an empty queue, and gold and practice pairs with their known labels; count the plain ones."""
    num = 0

    def rows() -> Iterator[tuple[int, str, str]]:
        nonlocal num
        for num, pair in enumerate(pairs, start=1):
            yield num, pair.pair_id, pair.model_dump_json()

    database.executemany("INSERT INTO pairs (position, pair_id, body, open) VALUES (?, ?, ?, 1)", rows())
    for start, known in ((GOLD_START, gold), (PRACTICE_START, practice)):
        mark = "practice:" if start == PRACTICE_START else ""  # the same pair may be asked in earnest too
        database.executemany(
            "INSERT INTO pairs (position, pair_id, body, gold, open) VALUES (?, ?, ?, ?, 0)",
            (
                (start + i, mark + pair.pair_id, pair.model_dump_json(), label)
                for i, (pair, label) in enumerate(known, start=1)
            ),
        )
    database.execute("INSERT INTO meta VALUES ('num_pairs', ?), ('num_plain_votes', '0')", (str(num),))
    return num


def claim(
    database: sqlite3.Connection, annotator: str, held: list[str], config: QueueConfig, now_s: float
) -> Assignment | None:
    """Give an annotator a pair that he does not hold yet, or None when there is nothing for him.

    A lease of his that the page does not know (`held` lists what it knows) comes first: that is a reload. Otherwise a
    repeat or a gold pair where the draw says so, else the next open pair after his cursor, else one that came back.
    Each step is one index look-up, whatever the length of the queue.
    """
    sweep(database, config, now_s)
    database.execute("INSERT OR IGNORE INTO annotators (name, gold_cursor) VALUES (?, ?)", (annotator, GOLD_START))
    leased = database.execute(
        "SELECT id, token FROM assignments WHERE annotator = ? AND state = 'leased' ORDER BY id", (annotator,)
    ).fetchall()
    for identity, token in leased:
        if token not in held:
            database.execute("UPDATE assignments SET expires = ? WHERE id = ?", (now_s + config.lease_s, identity))
            return _assignment(database, identity)
    if len(leased) >= MAX_HELD:
        return None
    identity = _claim_practice(database, annotator, config, now_s)
    if identity is not None:
        return _assignment(database, identity)
    slot, num_shown, num_answers = database.execute(
        "SELECT num_slots, num_shown, num_answers FROM annotators WHERE name = ?", (annotator,)
    ).fetchone()
    draw = (seed_of("annotate-slot", config.seed, annotator, slot) >> 10) / 2**53
    if draw < config.repeat_share:
        identity = _claim_repeat(database, annotator, slot, num_answers, config, now_s)
    elif draw < config.repeat_share + config.gold_share:
        identity = _claim_gold(database, annotator, num_shown, config, now_s)
    if identity is None:
        identity = _claim_plain(database, annotator, num_shown, config, now_s)
    if identity is None:
        return None
    database.execute("UPDATE annotators SET num_slots = num_slots + 1 WHERE name = ?", (annotator,))
    return _assignment(database, identity)


def _claim_practice(database: sqlite3.Connection, annotator: str, config: QueueConfig, now_s: float) -> int | None:
    """Give the next practice pair: everybody sees all of them, in their order, before anything else."""
    row = database.execute(
        "SELECT position FROM pairs WHERE position > (SELECT practised FROM annotators WHERE name = ?) ORDER BY position LIMIT 1",
        (annotator,),
    ).fetchone()
    if row is None:
        return None
    database.execute("UPDATE annotators SET practised = ? WHERE name = ?", (row[0], annotator))
    left = a_is_left(config.seed, annotator, row[0] - PRACTICE_START, config.block)
    return _lease(database, annotator, row[0], "practice", left, config, now_s)


def _claim_repeat(
    database: sqlite3.Connection, annotator: str, slot: int, num_answers: int, config: QueueConfig, now_s: float
) -> int | None:
    last = num_answers - config.repeat_after
    if last < 1:
        return None
    start = 1 + seed_of("annotate-repeat", config.seed, annotator, slot) % last
    for low in (start, 0):
        row = database.execute(
            "SELECT id, position, a_is_left FROM assignments INDEXED BY assignments_repeatable WHERE annotator = ? AND "
            "state = 'voted' AND kind = 'plain' AND repeated = 0 AND answered BETWEEN ? AND ? ORDER BY answered LIMIT 1",
            (annotator, low, last),
        ).fetchone()
        if row:
            database.execute("UPDATE assignments SET repeated = 1 WHERE id = ?", (row[0],))
            return _lease(database, annotator, row[1], "repeat", not row[2], config, now_s)
    return None


def _claim_gold(
    database: sqlite3.Connection, annotator: str, num_shown: int, config: QueueConfig, now_s: float
) -> int | None:
    row = database.execute(
        "SELECT position FROM pairs WHERE position > (SELECT gold_cursor FROM annotators WHERE name = ?) "
        "AND position <= ? ORDER BY position LIMIT 1",
        (annotator, PRACTICE_START),
    ).fetchone()
    if row is None:
        return None
    database.execute(
        "UPDATE annotators SET gold_cursor = ?, num_shown = num_shown + 1 WHERE name = ?", (row[0], annotator)
    )
    left = a_is_left(config.seed, annotator, num_shown, config.block)
    return _lease(database, annotator, row[0], "gold", left, config, now_s)


def _claim_plain(
    database: sqlite3.Connection, annotator: str, num_shown: int, config: QueueConfig, now_s: float
) -> int | None:
    row = database.execute(
        "SELECT position FROM pairs INDEXED BY pairs_open WHERE open = 1 AND position > "
        "(SELECT cursor FROM annotators WHERE name = ?) ORDER BY position LIMIT 1",
        (annotator,),
    ).fetchone()
    if row:
        database.execute("UPDATE annotators SET cursor = ? WHERE name = ?", (row[0], annotator))
    else:
        row = database.execute(
            "SELECT r.position FROM returned r WHERE NOT EXISTS (SELECT 1 FROM assignments s WHERE s.annotator = ? AND "
            "s.position = r.position AND s.kind = 'plain' AND s.state != 'lapsed') ORDER BY r.position LIMIT 1",
            (annotator,),
        ).fetchone()
    if row is None:
        return None
    _take(database, row[0], 1, config)
    lapsed = database.execute(
        "SELECT id FROM assignments WHERE annotator = ? AND position = ? AND kind = 'plain'", (annotator, row[0])
    ).fetchone()
    if lapsed:  # his own, come back to him: the sides stay as they were
        database.execute(
            "UPDATE assignments SET state = 'leased', expires = ? WHERE id = ?", (now_s + config.lease_s, lapsed[0])
        )
        return lapsed[0]
    database.execute("UPDATE annotators SET num_shown = num_shown + 1 WHERE name = ?", (annotator,))
    left = a_is_left(config.seed, annotator, num_shown, config.block)
    return _lease(database, annotator, row[0], "plain", left, config, now_s)


def _lease(
    database: sqlite3.Connection,
    annotator: str,
    position: int,
    kind: str,
    left: bool,
    config: QueueConfig,
    now_s: float,
) -> int:
    inserted = database.execute(
        "INSERT INTO assignments (token, annotator, position, kind, a_is_left, state, expires) VALUES (?, ?, ?, ?, ?, 'leased', ?)",
        (secrets.token_urlsafe(12), annotator, position, kind, int(left), now_s + config.lease_s),
    )
    assert inserted.lastrowid is not None  # SQLite gives one after every INSERT
    return inserted.lastrowid


def _take(database: sqlite3.Connection, position: int, change: int, config: QueueConfig) -> None:
    """Count a lease or vote of a plain pair in or out, and keep `open` and `returned` in step."""
    (taken,) = database.execute(
        "UPDATE pairs SET taken = taken + ?, open = (taken + ? < ?) WHERE position = ? RETURNING taken",
        (change, change, config.overlap, position),
    ).fetchone()
    if change < 0 and taken < config.overlap:
        database.execute("INSERT OR IGNORE INTO returned VALUES (?)", (position,))
    elif taken >= config.overlap:
        database.execute("DELETE FROM returned WHERE position = ?", (position,))


def sweep(database: sqlite3.Connection, config: QueueConfig, now_s: float) -> int:
    """Take back leases that lapsed, a bounded number at a time; a late vote on one still counts."""
    rows = database.execute(
        "SELECT id, position, kind FROM assignments INDEXED BY assignments_leased WHERE state = 'leased' AND expires < ? "
        "ORDER BY expires LIMIT ?",
        (now_s, SWEEP),
    ).fetchall()
    for identity, position, kind in rows:
        database.execute("UPDATE assignments SET state = 'lapsed' WHERE id = ?", (identity,))
        if kind == "plain":
            _take(database, position, -1, config)
    return len(rows)


def _assignment(database: sqlite3.Connection, identity: int) -> Assignment:
    token, kind, left, body = database.execute(
        "SELECT s.token, s.kind, s.a_is_left, p.body FROM assignments s JOIN pairs p USING (position) WHERE s.id = ?",
        (identity,),
    ).fetchone()
    return Assignment(token, kind, bool(left), Pair.model_validate_json(body))


def record_vote(
    database: sqlite3.Connection,
    annotator: str,
    token: str,
    vote_id: str,
    shown: str,
    seconds: float,
    reason: str | None,
    config: QueueConfig,
    time_utc: str,
    people: dict[str, list[Any]] | None = None,
) -> bool:
    """Store a vote, with what it says of people by side as shown (`left`, `right`); False if this very vote (same `vote_id`) is stored already, so that sending twice is harmless.

    Errors: ConflictError for an unknown assignment, one of another annotator, one that has another vote, a vote id
    used for something else, or answers for another number of people.
    """
    row = database.execute(
        "SELECT s.id, s.annotator, s.position, s.kind, s.a_is_left, s.state, p.pair_id, p.body FROM assignments s "
        "JOIN pairs p USING (position) WHERE s.token = ?",
        (token,),
    ).fetchone()
    if row is None or row[1] != annotator:
        raise ConflictError("this pair was not given to you")
    identity, _, position, kind, left, state, pair_id, body = row
    stored = database.execute("SELECT assignment, shown FROM votes WHERE vote_id = ?", (vote_id,)).fetchone()
    if stored:
        if stored != (identity, shown):
            raise ConflictError("this vote id was used for another vote")
        return False
    if state == "voted":
        raise ConflictError("this pair has your vote already")
    meant = None if people is None else _fates_as_meant(people, bool(left), Pair.model_validate_json(body))
    if state == "lapsed" and kind == "plain":
        _take(database, position, 1, config)
    database.execute(
        "INSERT INTO votes (vote_id, assignment, pair_id, annotator, answer, shown, a_is_left, seconds, kind, reason, time_utc, "
        "people) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            vote_id,
            identity,
            pair_id,
            annotator,
            shown_to_meant(shown, bool(left)),
            shown,
            left,
            seconds,
            kind,
            reason,
            time_utc,
            meant,
        ),
    )
    (answered,) = database.execute(
        "UPDATE annotators SET num_answers = num_answers + ?, num_plain = num_plain + ? WHERE name = ? RETURNING num_answers",
        (int(kind != "practice"), int(kind == "plain"), annotator),
    ).fetchone()
    database.execute("UPDATE assignments SET state = 'voted', answered = ? WHERE id = ?", (answered, identity))
    if kind == "plain":
        _count(database, 1)
    return True


def _fates_as_meant(people: dict[str, list[Any]], left: bool, pair: Pair) -> str:
    """Give the answers about people by clip, as JSON."""
    if any(len(fates) != len(pair.references) for fates in people.values()):
        raise ConflictError(f"answers about people are for another pair: this one has {len(pair.references)}")
    return json.dumps({shown_to_meant(side, left): fates for side, fates in people.items()}, sort_keys=True)


def undo_vote(
    database: sqlite3.Connection, annotator: str, vote_id: str, config: QueueConfig, now_s: float, time_utc: str
) -> bool:
    """Take a vote back; its pair is in the annotator's hands again. False if it is undone already.

    Errors: ConflictError if there is no such vote of this annotator.
    """
    row = database.execute(
        "SELECT v.assignment, v.annotator, v.kind FROM votes v WHERE v.vote_id = ?", (vote_id,)
    ).fetchone()
    if row is None or row[1] != annotator:
        raise ConflictError("there is no such vote of yours")
    if not database.execute("INSERT OR IGNORE INTO undone VALUES (?, ?)", (vote_id, time_utc)).rowcount:
        return False
    database.execute(
        "UPDATE assignments SET state = 'leased', answered = NULL, expires = ? WHERE id = ?",
        (now_s + config.lease_s, row[0]),
    )
    plain = int(row[2] == "plain")
    _count(database, -plain)
    database.execute(
        "UPDATE annotators SET num_undone = num_undone + ?, num_plain = num_plain - ? WHERE name = ?",
        (int(row[2] != "practice"), plain, annotator),
    )
    return True


def _count(database: sqlite3.Connection, change: int) -> None:
    database.execute(
        "UPDATE meta SET value = CAST(CAST(value AS INTEGER) + ? AS TEXT) WHERE key = 'num_plain_votes'", (change,)
    )


def progress(database: sqlite3.Connection, annotator: str, config: QueueConfig) -> dict[str, int]:
    """Count: votes of this annotator, votes of all, votes needed, and pairs at most left for this annotator."""
    facts = dict(
        database.execute("SELECT key, value FROM meta WHERE key IN ('num_pairs', 'num_plain_votes')").fetchall()
    )
    num_pairs, num_votes = int(facts["num_pairs"]), int(facts["num_plain_votes"])
    row = database.execute(
        "SELECT num_answers - num_undone, num_plain FROM annotators WHERE name = ?", (annotator,)
    ).fetchone()
    needed = num_pairs * config.overlap
    answers, plain = row or (0, 0)
    left = max(min(num_pairs - plain, needed - num_votes), 0)
    return {"mine": answers, "votes": num_votes, "needed": needed, "left": left}


def read_votes(database: sqlite3.Connection) -> Iterator[Vote]:
    """Give every vote that stands, in the order given; answers to practice pairs are none."""
    rows = database.execute(
        "SELECT vote_id, pair_id, annotator, answer, shown, a_is_left, seconds, kind, reason, time_utc, people FROM votes v "
        "WHERE kind != 'practice' AND NOT EXISTS (SELECT 1 FROM undone u WHERE u.vote_id = v.vote_id) ORDER BY serial"
    )
    names = [column[0] for column in rows.description]
    for row in rows:
        fields = dict(zip(names, row, strict=True))
        people = None if fields["people"] is None else json.loads(fields["people"])
        yield Vote(**{**fields, "a_is_left": bool(fields["a_is_left"]), "people": people})


def practice_feedback(database: sqlite3.Connection, token: str, shown: str) -> dict[str, Any] | None:
    """Say whether the answer to a practice pair is the known one, and which that is as shown; None for other pairs."""
    row = database.execute(
        "SELECT p.gold, s.a_is_left FROM assignments s JOIN pairs p USING (position) WHERE s.token = ? AND s.kind = 'practice'",
        (token,),
    ).fetchone()
    if row is None:
        return None
    known = meant_to_shown(row[0], bool(row[1]))
    return {"right": shown == known, "known": known}


def own_votes(database: sqlite3.Connection, annotator: str, count: int) -> list[dict[str, Any]]:
    """List the last votes of an annotator that stand, the newest first, as they were shown."""
    rows = database.execute(
        "SELECT v.vote_id, v.shown, v.reason, v.seconds, v.time_utc, json_extract(p.body, '$.prompt') FROM votes v "
        "JOIN assignments s ON s.id = v.assignment JOIN pairs p USING (position) WHERE v.annotator = ? AND v.kind != 'practice' "
        "AND NOT EXISTS (SELECT 1 FROM undone u WHERE u.vote_id = v.vote_id) ORDER BY v.serial DESC LIMIT ?",
        (annotator, count),
    )
    names = ("vote_id", "answer", "comment", "seconds", "time_utc", "prompt")
    return [dict(zip(names, row, strict=True)) for row in rows]


def gold_labels(database: sqlite3.Connection) -> dict[str, str]:
    """Give the known labels of the gold pairs."""
    return dict(
        database.execute(
            "SELECT pair_id, gold FROM pairs WHERE position > ? AND position <= ?", (GOLD_START, PRACTICE_START)
        ).fetchall()
    )


def check_same(database: sqlite3.Connection, fingerprint: dict[str, str]) -> bool:
    """Say whether the queue is filled; store what it was filled from, or refuse another source.

    Errors: UsageError if the session was begun with other pairs or queue settings.
    """
    row = database.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
    if row is None:
        database.execute("INSERT INTO meta VALUES ('fingerprint', ?)", (json.dumps(fingerprint, sort_keys=True),))
        return False
    stored = json.loads(row[0])
    different = sorted(key for key in {*stored, *fingerprint} if stored.get(key) != fingerprint.get(key))
    if different:
        raise UsageError(
            f"this session was begun with another {' and '.join(different)}",
            fix="give the same again, or begin another session with --name",
        )
    return True

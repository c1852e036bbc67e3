"""The session as it goes: who is active, how fast, how much people agree. Plain shares; the report at the end has intervals."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from idgrpo.annotate import queue
from idgrpo.annotate.config import QueueConfig
from idgrpo.records.models import Vote

RECENT_S = 600.0
ACTIVE_S = 120.0


@dataclass
class _Counts:
    """Counts of one annotator, or of all."""

    votes: int = 0
    recent: int = 0
    skips: int = 0
    left: int = 0
    sides: int = 0
    gold_right: int = 0
    gold: int = 0
    agreed: int = 0
    compared: int = 0
    seconds: list[float] = field(default_factory=list)
    last_s: float = 0.0

    def shown(self, now_s: float) -> dict[str, Any]:
        return {
            "votes": self.votes, "skips": self.skips, "votes_a_minute": self.recent / (RECENT_S / 60),
            "left_share": _share(self.left, self.sides), "gold_accuracy": _share(self.gold_right, self.gold),
            "num_gold": self.gold, "agreement": _share(self.agreed, self.compared),
            "median_seconds": median(self.seconds) if self.seconds else None,
            "idle_s": now_s - self.last_s if self.last_s else None,
        }  # fmt: skip


def session_status(database: sqlite3.Connection, config: QueueConfig, now_s: float) -> dict[str, Any]:
    """Say how a session goes: totals, and each annotator, those who voted last first."""
    everybody, each = tallies(queue.read_votes(database), queue.gold_labels(database), now_s)
    facts = dict(
        database.execute("SELECT key, value FROM meta WHERE key IN ('num_pairs', 'num_plain_votes')").fetchall()
    )
    needed, done = int(facts["num_pairs"]) * config.overlap, int(facts["num_plain_votes"])
    rows = sorted(each.items(), key=lambda item: -item[1].last_s)
    total = everybody.shown(now_s)
    rate = total["votes_a_minute"]
    return {
        **total, "needed": needed, "done": done, "minutes_left": (needed - done) / rate if rate else None,
        "active": sum(now_s - tally.last_s < ACTIVE_S for tally in each.values()),
        "annotators": [{"annotator": name, **tally.shown(now_s)} for name, tally in rows],
    }  # fmt: skip


def tallies(votes: Iterable[Vote], gold: Mapping[str, str], now_s: float) -> tuple[_Counts, dict[str, _Counts]]:
    """Count votes that stand; agreement counts every two first answers of different people to one pair."""
    everybody, each = _Counts(), defaultdict[str, _Counts](_Counts)
    answers: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for vote in votes:
        at_s = datetime.fromisoformat(vote.time_utc).timestamp()
        for tally in (everybody, each[vote.annotator]):
            _count(tally, vote, gold.get(vote.pair_id), at_s, now_s)
        if vote.kind == "plain" and vote.answer != "skip":
            answers[vote.pair_id].append((vote.annotator, vote.answer))
    for said in answers.values():
        _compare(said, everybody, each)
    return everybody, dict(each)


def _count(tally: _Counts, vote: Vote, known: str | None, at_s: float, now_s: float) -> None:
    tally.votes += 1
    tally.recent += now_s - at_s < RECENT_S
    tally.last_s = max(tally.last_s, at_s)
    if vote.answer == "skip":
        tally.skips += 1
        return
    tally.seconds.append(vote.seconds)
    tally.sides += vote.shown in ("left", "right")
    tally.left += vote.shown == "left"
    if vote.kind == "gold" and known is not None:
        tally.gold += 1
        tally.gold_right += vote.answer == known


def _compare(said: Sequence[tuple[str, str]], everybody: _Counts, each: Mapping[str, _Counts]) -> None:
    """Count for each person, and for all, with how many others of one pair they agree."""
    counts = Counter(answer for _, answer in said)
    for annotator, answer in said:
        for tally in (everybody, each[annotator]):
            tally.agreed += counts[answer] - 1
            tally.compared += len(said) - 1


def status_line(status: Mapping[str, Any]) -> str:
    """Say the state of a session in one line."""
    parts = [f"{status['done']} of {status['needed']} votes", f"{status['active']} active"]
    parts.append(f"{status['votes_a_minute']:.1f} a minute")
    if status["minutes_left"] is not None and status["done"] < status["needed"]:
        parts.append(f"{status['minutes_left']:.0f} min left")
    for key, name in (("agreement", "agreement"), ("left_share", "left"), ("gold_accuracy", "gold")):
        if status[key] is not None:
            parts.append(f"{name} {status[key]:.2f}")
    return " · ".join(parts)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

"""Simulated annotators: people with known skill, noise, side bias, laziness and tie habits, who vote like everybody."""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from idgrpo.annotate.config import AnnotatorConfig, OracleConfig
from idgrpo.annotate.sides import a_is_left, meant_to_shown, shown_to_meant
from idgrpo.errors import DataError
from idgrpo.records.models import FATES, Fates, Pair, Vote
from idgrpo.run.draws import seed_of

SIDE_BLOCK = 8
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # simulated time: votes of one seed are equal to the byte


def simulate_votes(
    pairs: Iterable[Pair],
    gap: Callable[[Pair], float],
    config: OracleConfig,
    fates: Callable[[Pair], Fates] | None = None,
) -> Iterator[Vote]:
    """Let the panel vote on every pair; `gap(pair)` is the noise-free quality of clip a minus clip b.

    Each pair gets `overlap` annotators (those with the fewest votes so far, ties by a draw), each side is balanced in
    blocks, and `repeat_share` of the pairs are shown again to one of them with sides swapped. Every draw is a function
    of (seed, annotator, pair), so one pair's votes do not depend on which other pairs there are, except for who votes
    and on which side.

    With `fates(pair)`, the truth about each person in each clip, considered answers also say who is wrong.

    Errors: DataError if the gap is not a finite number.
    """
    seats = [_Seat(name=f"sim-{k + 1:02d}", habits=habits) for k, habits in enumerate(config.annotators())]
    for pair in pairs:
        quality = gap(pair)
        if not math.isfinite(quality):
            raise DataError(f"pair {pair.pair_id!r}: the oracle's gap is {quality}, not a finite number")
        draw = random.Random(seed_of("oracle-seats", config.seed, pair.pair_id))
        chosen = sorted(seats, key=lambda seat: (seat.num_votes, draw.random()))[: config.overlap]
        repeats = draw.random() < config.repeat_share
        for index, seat in enumerate(chosen):
            a_left = a_is_left(config.seed, seat.name, seat.position, SIDE_BLOCK)
            seat.position += 1
            yield _vote(seat, pair, quality, a_left, "plain", config.seed, fates)
            if repeats and index == 0:
                yield _vote(seat, pair, quality, not a_left, "repeat", config.seed, fates)


@dataclass
class _Seat:
    name: str
    habits: AnnotatorConfig
    num_votes: int = 0
    position: int = 0
    clock_s: float = 0.0


def _vote(
    seat: _Seat,
    pair: Pair,
    quality: float,
    a_left: bool,
    kind: str,
    seed: int,
    fates: Callable[[Pair], Fates] | None,
) -> Vote:
    draw = random.Random(seed_of("oracle-vote", seed, seat.name, pair.pair_id, kind))
    shown, seconds, considered = answer(quality, a_left, seat.habits, draw)
    people = told_fates(fates(pair), seat.habits, draw) if fates is not None and considered else None
    seat.num_votes += 1
    seat.clock_s += seconds
    return Vote(
        vote_id=f"{seat.name}.{pair.pair_id}.{kind}",
        pair_id=pair.pair_id,
        annotator=seat.name,
        answer=shown_to_meant(shown, a_left),
        shown=shown,
        a_is_left=a_left,
        seconds=round(seconds, 3),
        kind=kind,
        reason="simulated skip" if shown == "skip" else None,
        people=people,
        time_utc=(EPOCH + timedelta(seconds=seat.clock_s)).isoformat(timespec="milliseconds"),
    )


def told_fates(truth: Fates, habits: AnnotatorConfig, draw: random.Random) -> Fates:
    """Give what one annotator says about people: the truth, or with chance 1 - skill another fate at random."""
    return {
        side: [
            fate if fate is None or draw.random() < habits.skill else draw.choice([f for f in FATES if f != fate])
            for fate in fates
        ]
        for side, fates in truth.items()
    }


def answer(quality: float, a_left: bool, habits: AnnotatorConfig, draw: random.Random) -> tuple[str, float, bool]:
    """Give one annotator's answer as shown, the seconds it took, and whether it was considered.

    One draw decides the mode: skip, lazy (a side at random within a second), biased (always the same side) or
    considered. A considered answer perceives quality + N(0, noise^2); a magnitude up to `tie_width` is a tie (of
    which `both_bad_share` are called both bad); otherwise the better side, reversed with probability 1 - skill.
    """
    mode = draw.random()
    if mode < habits.skip_rate:
        return "skip", habits.seconds * draw.lognormvariate(0, 0.4), False
    mode -= habits.skip_rate
    if mode < habits.laziness:
        return draw.choice(("left", "right")), 0.3 + 0.7 * draw.random(), False
    mode -= habits.laziness
    seconds = habits.seconds * draw.lognormvariate(0, 0.4)
    if mode < abs(habits.side_bias):
        return ("left" if habits.side_bias > 0 else "right"), seconds, False
    perceived = quality + draw.gauss(0, habits.noise)
    if abs(perceived) <= habits.tie_width:
        return ("both_bad" if draw.random() < habits.both_bad_share else "tie"), seconds, True
    better = "a" if perceived > 0 else "b"
    if draw.random() >= habits.skill:
        better = "b" if better == "a" else "a"
    return meant_to_shown(better, a_left), seconds, True

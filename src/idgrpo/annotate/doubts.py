"""What an organiser must see before votes are trusted: answers that contradict themselves, and labels that may be noise."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np

from idgrpo.annotate.aggregate import Verdicts
from idgrpo.annotate.agreement import AgreementReport
from idgrpo.annotate.config import AggregateConfig
from idgrpo.annotate.sides import shown_to_meant
from idgrpo.errors import DataError
from idgrpo.records.models import Vote

FIRST_YEAR = 2000
MAX_SECONDS = 86_400
CLOCKS_DIFFER = timedelta(days=1)


def vote_check() -> Callable[[Vote, int], str | None]:
    """Give a check for the votes of one file: it says what is impossible about a vote, or None.

    An annotator's second answer to a pair must be marked as a repeat, or be the same.
    """
    met: dict[str, tuple[Vote, int]] = {}
    answers: dict[tuple[str, str], tuple[str, int]] = {}

    def check(vote: Vote, line: int) -> str | None:
        first, first_line = met.setdefault(vote.vote_id, (vote, line))
        if first != vote:
            return f"field 'vote_id': {vote.vote_id!r} stands in line {first_line} with different contents"
        if (wrong := _impossible(vote)) or vote.kind != "plain" or vote.answer == "skip":
            return wrong
        answer, before = answers.setdefault((vote.annotator, vote.pair_id), (vote.answer, line))
        if answer != vote.answer:
            return (
                f"field 'answer': {vote.annotator!r} answers {vote.answer!r} about {vote.pair_id!r}, and {answer!r} in line "
                f"{before}; a pair that is shown again has kind 'repeat'"
            )
        return None

    return check


def _impossible(vote: Vote) -> str | None:
    if shown_to_meant(vote.shown, vote.a_is_left) != vote.answer:
        side = "left" if vote.a_is_left else "right"
        return f"field 'answer': {vote.answer!r} contradicts shown {vote.shown!r} with clip a on the {side}"
    if not 0 <= vote.seconds <= MAX_SECONDS:
        return f"field 'seconds': {vote.seconds:g} is not between 0 and {MAX_SECONDS}"
    try:
        time = datetime.fromisoformat(vote.time_utc)
    except ValueError:
        return f"field 'time_utc': {vote.time_utc[:40]!r} is no time such as 2026-01-31T12:00:00+00:00"
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    if time.year < FIRST_YEAR or time > datetime.now(UTC) + CLOCKS_DIFFER:
        return f"field 'time_utc': {vote.time_utc} is before the year {FIRST_YEAR} or in the future"
    return None


def find_doubts(verdicts: Verdicts, report: AgreementReport, config: AggregateConfig) -> list[str]:
    """Say why the labels may be noise, each with what to do about it; nothing where there is no reason.

    Errors: DataError when alpha is at or below `min_alpha` on pairs enough to tell.
    """
    num_votes, decided = verdicts.counts.sum(1), verdicts.label >= 0
    compared = int((num_votes >= 2).sum())
    alpha = report.krippendorff_alpha
    if alpha.value is not None and compared >= config.min_alpha_pairs and alpha.value <= config.min_alpha:
        raise DataError(
            f"the votes agree no better than chance: Krippendorff's alpha is {alpha.value:.3f} on {compared} pairs with two or "
            f"more votes; the floor is aggregate.min_alpha={config.min_alpha:g}",
            fix="see who is flagged and whether the question is clear, collect more votes, or lower the floor to publish anyway: "
            "--votes votes --set aggregate.min_alpha=-1",
        )
    single = int((decided & (num_votes == 1)).sum())
    best = verdicts.counts.max(1, initial=0, keepdims=True)
    split = int((decided & (num_votes > 1) & ((verdicts.counts == best).sum(1) > 1)).sum())
    num, doubts = int(np.count_nonzero(decided)), []
    if single:
        doubts.append(
            f"{single} of {num} preferences rest on one vote: collect more, or leave them out with aggregate.min_votes=2"
        )
    if split:
        doubts.append(
            f"{split} of {num} preferences come from votes that are split evenly: collect more, or leave them out with "
            "aggregate.min_confidence=0.6"
        )
    if num and not compared:
        doubts.append("no pair was answered by two people: nobody can tell whether they agree")
    elif alpha.value is not None and (alpha.value <= 0 or (alpha.low is not None and alpha.low <= 0)):
        doubts.append(
            f"Krippendorff's alpha is {alpha.value:.3f} on {compared} pairs: agreement by chance cannot be excluded; collect "
            "more votes, or see who is flagged"
        )
    return doubts

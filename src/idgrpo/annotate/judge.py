"""Judges: models that vote like people. Every round is asked in both orders; who contradicts himself abstains."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from idgrpo.annotate.agreement import JudgeFigures, figure_of
from idgrpo.annotate.config import JudgeConfig
from idgrpo.annotate.intervals import share
from idgrpo.annotate.sides import a_is_left, meant_to_shown, shown_to_meant
from idgrpo.errors import DataError
from idgrpo.records.models import Pair, Vote
from idgrpo.run.draws import seed_of

if TYPE_CHECKING:
    from torch import Tensor

Shown = Literal["left", "right", "tie", "both_bad"]
SIDE_BLOCK = 8
NO_TIME = datetime(2000, 1, 1, tzinfo=UTC).isoformat(timespec="milliseconds")
"""Of every vote of a model: the same judges give the same votes to the byte, on whatever day and machine."""
# How reasons of abstention begin; the figures below count by them.
ORDER, UNSURE, UNREADABLE, EMBEDDINGS = "order", "unsure", "unreadable", "embeddings"


@dataclass(frozen=True)
class Question:
    """What a judge sees: two clips uint8 [frame, 3, height, width], one photo a person uint8 [3, height, width], the text."""

    left: "Tensor"
    right: "Tensor"
    photos: "list[Tensor]"
    prompt: str
    fps: tuple[float, float] = (16.0, 16.0)

    def swapped(self) -> "Question":
        """Give the same with the clips in each other's place."""
        return Question(self.right, self.left, self.photos, self.prompt, self.fps[::-1])


@dataclass(frozen=True)
class Reply:
    """An answer as shown, or None with the reason for abstaining (it begins with UNSURE or UNREADABLE)."""

    answer: Shown | None
    reason: str = ""


class Judge(Protocol):
    """Answers questions. `varies` says whether asking again can give another answer; if not, it is asked once.

    `ask` gives `num` replies, the same for the same seed. A backend that fails raises: a failure is never a vote.
    """

    name: str
    varies: bool

    def ask(self, question: Question, num: int, seed: int) -> Sequence[Reply]:
        """Answer `num` times."""


def judge_votes(
    pairs: Iterable[Pair],
    judges: Sequence[Judge],
    config: JudgeConfig,
    look: Callable[[Pair], Question],
    *,
    gap: Callable[[Question], float] | None = None,
    start: int = 0,
) -> Iterator[list[Vote]]:
    """Let every judge vote on every pair; yields all votes of a pair together.

    Args:
        look: reads a pair's clips and photos, clip a on the left.
        gap: how much closer the left clip is to the references in an embedding space. A vote that it contradicts by
            more than `config.filter_margin` becomes an abstention: the filter of inconsistent cases.
        start: position of the first pair among all; sides balance over positions.

    Errors: DataError if a judge gives another number of replies than asked for; whatever a judge raises.
    """
    for position, pair in enumerate(pairs, start):
        question = look(pair)
        closer = gap(question) if gap is not None else None
        votes: list[Vote] = []
        for judge in judges:
            left = a_is_left(config.seed, judge.name, position, SIDE_BLOCK)
            votes += _votes(pair, question, judge, config, closer, left)
        yield votes


def num_votes(judges: Sequence[Judge], config: JudgeConfig) -> int:
    """Count the votes that each pair gets."""
    return sum(config.votes if judge.varies else 1 for judge in judges)


def _votes(
    pair: Pair, question: Question, judge: Judge, config: JudgeConfig, closer: float | None, left: bool
) -> Iterator[Vote]:
    num = config.votes if judge.varies else 1
    straight = _ask(judge, question, num, seed_of("judge", config.seed, judge.name, pair.pair_id, "straight"))
    swapped = _ask(judge, question.swapped(), num, seed_of("judge", config.seed, judge.name, pair.pair_id, "swapped"))
    for round_, replies in enumerate(zip(straight, swapped, strict=True)):
        answer, reason = verdict(*replies)
        if closer is not None and contradicts(answer, closer, config.filter_margin):
            answer, reason = "skip", f"{EMBEDDINGS}: said {answer}, but a - b = {closer:+.3f}"
        yield Vote(
            vote_id=f"{judge.name}.{pair.pair_id}.{round_}",
            pair_id=pair.pair_id,
            annotator=judge.name,
            answer=answer,
            shown=meant_to_shown(answer, left ^ bool(round_ % 2)),
            a_is_left=left ^ bool(round_ % 2),
            seconds=0.0,
            reason=reason,
            time_utc=NO_TIME,
        )


def _ask(judge: Judge, question: Question, num: int, seed: int) -> Sequence[Reply]:
    replies = judge.ask(question, num, seed)
    if len(replies) != num:
        raise DataError(f"judge {judge.name!r} gave {len(replies)} replies where {num} were asked for")
    return replies


def verdict(straight: Reply, swapped: Reply) -> tuple[Any, str | None]:
    """Decide what a round means from its replies with clip a on the left and on the right: (answer as meant, reason).

    Only what is said both times counts; everything else is a skip, with the reason.
    """
    for reply in (straight, swapped):
        if reply.answer is None:
            return "skip", reply.reason or UNSURE
    assert straight.answer is not None and swapped.answer is not None
    first, second = shown_to_meant(straight.answer, True), shown_to_meant(swapped.answer, False)
    if first == second:
        return first, None
    return "skip", contradiction(straight.answer, swapped.answer)


def contradicts(answer: str, closer: float, margin: float) -> bool:
    """Tell whether embeddings clearly (by more than `margin`) favour the other clip; they say nothing about ties."""
    return (answer == "a" and closer < -margin) or (answer == "b" and closer > margin)


def judge_figures(votes: Iterable[Vote], level: float = 0.95) -> list[JudgeFigures]:
    """Say for each judge how often it contradicted itself and why it abstained.

    `order_consistent`: of the rounds answered in both orders, the share with the same meaning both times.
    `same_side`: of the rounds contradicted, how often it said left, or right, both times.
    """
    by_name: dict[str, list[Vote]] = {}
    for vote in votes:
        by_name.setdefault(vote.annotator, []).append(vote)
    figures = []
    for name, mine in by_name.items():
        reasons = Counter(vote.reason or "" for vote in mine if vote.answer == "skip")
        why: Counter[str] = Counter()
        for reason, num in reasons.items():
            why[reason.partition(":")[0]] += num
        asked = len(mine) - why[UNSURE] - why[UNREADABLE]
        figures.append(
            JudgeFigures(
                judge=name,
                num_rounds=len(mine),
                num_voted=len(mine) - reasons.total(),
                order_consistent=figure_of(share(asked - why[ORDER], asked, level)),
                abstained={reason: num for reason, num in why.items() if num},
                same_side={side: reasons[contradiction(side, side)] for side in ("left", "right")},
            )
        )
    return figures


def contradiction(straight: str, swapped: str) -> str:
    """Word the reason of a round whose two orders disagree."""
    return f"{ORDER}: {straight}, and {swapped} with sides swapped"

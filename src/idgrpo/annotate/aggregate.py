"""Votes -> preferences: majority, or weighted by what a model of annotators learned about each."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from idgrpo.annotate.config import AggregateConfig
from idgrpo.annotate.habits import Habits, estimate_habits
from idgrpo.annotate.table import CLASSES, VoteTable, vote_table
from idgrpo.errors import DataError
from idgrpo.records.models import Fates, Pair, Preference, Vote

TIE = CLASSES.index("tie")


@dataclass(frozen=True)
class Verdicts:
    """One label a pair, with the votes it rests on; -1 where there is none."""

    table: VoteTable
    label: np.ndarray  # int8 [pair], index into CLASSES
    confidence: np.ndarray  # float64 [pair]: posterior of the label, or its share of the votes
    counts: np.ndarray  # int64 [pair, class]
    habits: Habits | None
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> pairs without a preference


def majority_labels(counts: np.ndarray) -> np.ndarray:
    """Give the class most voted for: int8 [pair] from counts [pair, class].

    When the first place is shared the honest answer is that nobody knows: `tie`, or `both_bad` if it shares the place
    with `tie` alone.
    """
    best = counts.max(1, keepdims=True)
    shared = (counts == best).sum(1) > 1
    label = counts.argmax(1)
    only_draws = shared & (counts[:, 0] < best[:, 0]) & (counts[:, 1] < best[:, 0])
    return np.where(only_draws, CLASSES.index("both_bad"), np.where(shared, TIE, label)).astype(np.int8)


def decide_labels(votes: Iterable[Vote], config: AggregateConfig, *, pairs: Iterable[str] = ()) -> Verdicts:
    """Decide a label for every pair that has votes enough.

    Repeats measure annotators and gold pairs have known answers: neither is counted towards a label.
    """
    table = vote_table(votes, pairs=pairs)
    counts = table.opinions.counts()
    num_votes = counts.sum(1)
    habits = None
    if config.method == "majority":
        label = majority_labels(counts)
        chosen = np.take_along_axis(counts, label[:, None].astype(np.int64), 1)[:, 0]
        confidence = chosen / np.maximum(num_votes, 1)
    else:
        habits = estimate_habits(table, smoothing=config.smoothing, max_rounds=config.max_rounds)
        label = _most_likely(habits.posterior)
        confidence = habits.posterior[np.arange(len(label)), label]
    few, unsure = num_votes < config.min_votes, confidence < config.min_confidence
    left_out = {"too few votes": int(few.sum()), "too unsure": int((unsure & ~few).sum())}
    label = np.where(few | unsure, -1, label).astype(np.int8)
    return Verdicts(table, label, confidence, counts, habits, {k: v for k, v in left_out.items() if v})


def _most_likely(posterior: np.ndarray) -> np.ndarray:
    label = posterior.argmax(1)
    even = (np.abs(posterior[:, 0] - posterior[:, 1]) < 1e-9) & (label < 2)
    return np.where(even, TIE, label).astype(np.int8)


def to_preferences(
    pairs: Iterable[Pair],
    verdicts: Verdicts,
    *,
    source: Literal["human", "synthetic", "judge"] = "human",
    by: str = "people",
    people: Callable[[str], Fates | None] = lambda pair_id: None,
) -> Iterator[Preference]:
    """Write the verdicts as preference records, in the order of the pairs.

    `by` (people, oracle, judge) and the confidence go into `origin`, so that simulated people can be told from people.
    `people` tells what became of each person in the clips of a pair, where anybody was asked.
    Errors: DataError if votes name a pair that is not there.
    """
    index = {name: i for i, name in enumerate(verdicts.table.pairs)}
    used: set[str] = set()
    for pair in pairs:
        i = index.get(pair.pair_id)
        if i is None:
            continue
        used.add(pair.pair_id)
        if verdicts.label[i] < 0:
            continue
        fields = {name: getattr(pair, name) for name in Pair.model_fields}
        fields["origin"] = {**pair.origin, "by": by, "confidence": round(float(verdicts.confidence[i]), 4)}
        votes = {name: int(n) for name, n in zip(CLASSES, verdicts.counts[i], strict=True) if n}
        label = CLASSES[verdicts.label[i]]
        yield Preference(**fields, label=label, votes=votes, source=source, people=people(pair.pair_id))
    # Votes on gold pairs measure annotators: their pairs need not be among those to be labelled.
    strangers = [name for name, i in index.items() if name not in used and verdicts.counts[i].any()]
    if strangers:
        raise DataError(
            f"{len(strangers)} pairs with votes are not among those given, such as {strangers[0]!r}",
            fix="give the pairs the votes were made on",
        )

"""How far votes can be trusted: agreement, position bias, gold accuracy and skill, each with an interval."""

import math
import warnings
from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from idgrpo.annotate.aggregate import Verdicts
from idgrpo.annotate.config import AgreementConfig
from idgrpo.annotate.habits import estimate_habits, skills
from idgrpo.annotate.intervals import (
    NOTHING,
    Interval,
    bootstrap,
    logit_interval,
    nominal_alpha,
    raw_agreement,
    share,
)
from idgrpo.annotate.table import CLASSES, KINDS, VoteTable
from idgrpo.records.models import FATES

SKIP = len(CLASSES)
GOLD, REPEAT = KINDS.index("gold"), KINDS.index("repeat")


class Figure(BaseModel):
    """A value with its interval; None where there is nothing to estimate from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: float | None
    low: float | None
    high: float | None
    num: int


class AnnotatorFigures(BaseModel):
    """One annotator; flags are for people to read: nobody is dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    annotator: str
    num_votes: int
    num_skips: int
    left_share: Figure
    skill: Figure
    gold_accuracy: Figure
    repeat_agreement: Figure
    median_seconds: float | None
    tie_share: float | None
    flags: list[str]


class JudgeFigures(BaseModel):
    """One model as judge: how often both orders gave the same answer, why it abstained, which side it clung to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    judge: str
    num_rounds: int
    num_voted: int
    order_consistent: Figure
    abstained: dict[str, int]
    same_side: dict[str, int]


class PeopleFigures(BaseModel):
    """Answers about who is wrong, over clips and people: how many, of which fate, and how far annotators agree."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_asked: int
    num_answers: int
    fate_shares: dict[str, float]
    krippendorff_alpha: Figure


class AgreementReport(BaseModel):
    """The whole report."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    num_pairs: int
    num_votes: int
    num_skips: int
    label_shares: dict[str, float]
    vote_shares: dict[str, float]
    raw_agreement: Figure
    krippendorff_alpha: Figure
    left_share: Figure
    gold_accuracy: Figure
    repeat_agreement: Figure
    median_seconds: float | None
    left_out: dict[str, int]
    annotators: list[AnnotatorFigures]
    level: float
    judges: list[JudgeFigures] = []
    people: PeopleFigures | None = None
    doubts: list[str] = []


def agreement_report(
    verdicts: Verdicts, config: AgreementConfig, *, gold: Mapping[str, str] | None = None
) -> AgreementReport:
    """Measure agreement among annotators and the habits of each; `gold` maps pair ids to known labels."""
    table, counts = verdicts.table, verdicts.counts
    gold_right = _gold_right(table, gold or {})
    repeat_equal, repeat_known = _repeats(table)
    habits = verdicts.habits or estimate_habits(table)
    skill = [
        logit_interval(value, error, num, config.level)
        for value, error, num in zip(*(column.tolist() for column in skills(table, habits)), strict=True)
    ]
    given = counts.sum()
    decided = verdicts.label[verdicts.label >= 0]
    rows = []
    for index, name in enumerate(table.annotators):
        mine = table.annotator == index
        rows.append(
            _annotator(
                name, table.where(mine), gold_right[mine], repeat_equal[mine], repeat_known[mine], skill[index], config
            )
        )
    return AgreementReport(
        num_pairs=int((counts.sum(1) > 0).sum()),
        num_votes=len(table.answer),
        num_skips=int((table.answer == SKIP).sum()),
        label_shares={name: float((decided == i).mean()) if len(decided) else 0.0 for i, name in enumerate(CLASSES)},
        vote_shares={name: float(counts[:, i].sum() / given) if given else 0.0 for i, name in enumerate(CLASSES)},
        raw_agreement=figure_of(_with_bootstrap(raw_agreement, counts, config)),
        krippendorff_alpha=figure_of(_with_bootstrap(nominal_alpha, counts, config, value=krippendorff_alpha(counts))),
        left_share=figure_of(_left_share(table, config.level)),
        gold_accuracy=figure_of(_share_of(gold_right, config.level)),
        repeat_agreement=figure_of(share(repeat_equal.sum(), int(repeat_known.sum()), config.level)),
        median_seconds=_median(table.seconds[table.answer < SKIP]),
        left_out=verdicts.left_out,
        annotators=rows,
        level=config.level,
    )


def people_figures(counts: np.ndarray, config: AgreementConfig) -> PeopleFigures | None:
    """Measure agreement about people from counts [clip and person, fate]; None where nobody answered."""
    num = int(counts.sum())
    if num == 0:
        return None
    return PeopleFigures(
        num_asked=len(counts),
        num_answers=num,
        fate_shares={fate: float(counts[:, i].sum() / num) for i, fate in enumerate(FATES)},
        krippendorff_alpha=figure_of(_with_bootstrap(nominal_alpha, counts, config, value=krippendorff_alpha(counts))),
    )


def krippendorff_alpha(counts: np.ndarray) -> float:
    """Give Krippendorff's alpha for unordered classes from counts [pair, class]; NaN if it is not defined."""
    import krippendorff  # pulls in scipy-sized imports: only where a report is made

    several = counts[counts.sum(1) > 1]
    if len(several) == 0 or (several.sum(0) > 0).sum() < 2:
        return math.nan  # nobody to agree with, or one class only: expected disagreement is 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(krippendorff.alpha(value_counts=several, level_of_measurement="nominal"))


def _with_bootstrap(statistic, counts: np.ndarray, config: AgreementConfig, value: float | None = None) -> Interval:
    several = counts[counts.sum(1) > 1]
    if len(several) == 0:
        return NOTHING
    value = float(statistic(several)) if value is None else value
    low, high = bootstrap(statistic, several, num_resamples=config.num_resamples, level=config.level, seed=config.seed)
    return Interval(value, low, high, len(several))


def _left_share(table: VoteTable, level: float) -> Interval:
    left = np.where(table.a_is_left, table.answer == 0, table.answer == 1)
    sided = table.answer < 2
    return share(int(left[sided].sum()), int(sided.sum()), level)


def _gold_right(table: VoteTable, gold: Mapping[str, str]) -> np.ndarray:
    """Float [vote]: 1 right, 0 wrong, NaN where the vote is not one on a gold pair."""
    known = np.array([CLASSES.index(gold[name]) if name in gold else -1 for name in table.pairs], dtype=np.int64)
    expected = known[table.pair] if len(known) else np.zeros(0, dtype=np.int64)
    counted = (table.kind == GOLD) & (expected >= 0) & (table.answer < SKIP)
    return np.where(counted, (table.answer == expected).astype(np.float64), np.nan)


def _repeats(table: VoteTable) -> tuple[np.ndarray, np.ndarray]:
    """Bool [vote] twice: a repeat's answer equals the first one; a repeat whose first answer is known."""
    said = table.answer < SKIP
    key = table.pair * max(len(table.annotators), 1) + table.annotator
    first = {
        int(k): int(a)
        for k, a in zip(key[said & (table.kind == 0)], table.answer[said & (table.kind == 0)], strict=True)
    }
    equal, known = np.zeros(len(key), dtype=bool), np.zeros(len(key), dtype=bool)
    for row in np.flatnonzero(said & (table.kind == REPEAT)):
        if int(key[row]) in first:
            known[row] = True
            equal[row] = first[int(key[row])] == int(table.answer[row])
    return equal, known


def _annotator(
    name: str,
    mine: VoteTable,
    gold_right: np.ndarray,
    repeat_equal: np.ndarray,
    repeat_known: np.ndarray,
    skill: Interval,
    config: AgreementConfig,
) -> AnnotatorFigures:
    answered = mine.answer < SKIP
    left = _left_share(mine, config.level)
    gold = _share_of(gold_right, config.level)
    repeat = share(int(repeat_equal.sum()), int(repeat_known.sum()), config.level)
    seconds = _median(mine.seconds[answered])
    flags = []
    if seconds is not None and seconds < config.flag_min_seconds:
        flags.append(f"answers in {seconds:.1f} s (median)")
    if left.low > 0.5 + config.flag_side_bias or left.high < 0.5 - config.flag_side_bias:
        flags.append(f"prefers the {'left' if left.value > 0.5 else 'right'} side")
    for label, figure, least in (
        ("gold accuracy", gold, config.flag_min_gold),
        ("skill", skill, config.flag_min_skill),
        ("agreement with own earlier answers", repeat, config.flag_min_repeat),
    ):
        if figure.high < least:
            flags.append(f"{label} {figure.value:.2f}")
    return AnnotatorFigures(
        annotator=name,
        num_votes=int(answered.sum()),
        num_skips=int((~answered).sum()),
        left_share=figure_of(left),
        skill=figure_of(skill),
        gold_accuracy=figure_of(gold),
        repeat_agreement=figure_of(repeat),
        median_seconds=seconds,
        tie_share=float((mine.answer[answered] >= 2).mean()) if answered.any() else None,
        flags=flags,
    )


def _share_of(right: np.ndarray, level: float) -> Interval:
    known = right[np.isfinite(right)]
    return share(float(known.sum()), len(known), level)


def _median(seconds: np.ndarray) -> float | None:
    return float(np.median(seconds)) if len(seconds) else None


def figure_of(estimate: Interval) -> Figure:
    """Give an estimate as JSON can hold it: None for what is not finite."""
    value, low, high = (x if math.isfinite(x) else None for x in estimate[:3])
    return Figure(value=value, low=low, high=high, num=estimate.num)

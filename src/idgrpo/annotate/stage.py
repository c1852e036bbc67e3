"""The end of every way of voting: votes -> prefs.jsonl and the agreement report, in one folder."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from idgrpo.annotate.aggregate import decide_labels, to_preferences
from idgrpo.annotate.agreement import AgreementReport, agreement_report, people_figures
from idgrpo.annotate.config import AnnotateConfig
from idgrpo.annotate.doubts import find_doubts
from idgrpo.annotate.html import render_report
from idgrpo.annotate.judge import judge_figures
from idgrpo.annotate.people import PeopleTally
from idgrpo.errors import DataError
from idgrpo.records.jsonl import write_records
from idgrpo.records.models import Pair, Vote

PREFERENCES_FILE = "prefs.jsonl"
REPORT_FILE = "agreement.json"
PAGE_FILE = "agreement.html"
SOURCES: dict[str, Literal["human", "synthetic", "judge"]] = {"people": "human", "oracle": "human", "judge": "judge"}


def conclude(
    pairs: Sequence[Pair],
    votes: Iterable[Vote],
    config: AnnotateConfig,
    out: Path,
    *,
    by: str = "people",
    gold: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Aggregate votes into `out`/prefs.jsonl and write the agreement report beside it; returns the figures of both.

    Simulated annotators stand for people: their preferences have source `human`, and `origin.by` says `oracle`.
    Errors: DataError if no pair has votes enough, or the votes agree no better than chance.
    """
    gold = gold or {}
    votes = list(votes) if by == "judge" else votes
    people = PeopleTally()
    verdicts = decide_labels(people.watch(votes), config.aggregate, pairs=[pair.pair_id for pair in pairs])
    # A model's speed says nothing about its care.
    thresholds = config.agreement.model_copy(update={"flag_min_seconds": 0.0}) if by == "judge" else config.agreement
    report = agreement_report(verdicts, thresholds, gold=gold)
    report = report.model_copy(update={"people": people_figures(people.counts(), config.agreement)})
    if by == "judge":
        report = report.model_copy(update={"judges": judge_figures(votes, config.agreement.level)})
    report = report.model_copy(update={"doubts": find_doubts(verdicts, report, config.aggregate)})
    preferences = to_preferences(pairs, verdicts, source=SOURCES[by], by=by, people=people.of)
    num = write_records(out / PREFERENCES_FILE, preferences)
    (out / REPORT_FILE).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (out / PAGE_FILE).write_text(render_report(report, title=f"Agreement: votes by {by}"), encoding="utf-8")
    if num == 0:
        reasons = ", ".join(f"{count} pairs: {why}" for why, count in verdicts.left_out.items()) or "there are no pairs"
        raise DataError(
            f"no preference comes of these votes ({reasons})", fix="collect more votes, or lower aggregate.min_votes"
        )
    return {"preferences": num, "pairs": len(pairs), **figures(report)}


def figures(report: AgreementReport) -> dict[str, Any]:
    """Pick the figures of a report that go into a manifest."""
    return {
        "votes": report.num_votes,
        "skips": report.num_skips,
        "annotators": len(report.annotators),
        "label_shares": report.label_shares,
        "raw_agreement": report.raw_agreement.model_dump(),
        "krippendorff_alpha": report.krippendorff_alpha.model_dump(),
        "left_share": report.left_share.model_dump(),
        "gold_accuracy": report.gold_accuracy.model_dump(),
        "repeat_agreement": report.repeat_agreement.model_dump(),
        "left_out": report.left_out,
        **({"judges": [judge.model_dump() for judge in report.judges]} if report.judges else {}),
        **({"people": report.people.model_dump()} if report.people else {}),
        **({"doubts": report.doubts} if report.doubts else {}),
        "flagged": {row.annotator: row.flags for row in report.annotators if row.flags},
    }


def summary_lines(facts: Mapping[str, Any], ref: str) -> list[str]:
    """Say the figures in a few lines for people."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in facts["label_shares"].items() if share)
    lines = [
        f"{facts['preferences']} preferences of {facts['pairs']} pairs: {shares}",
        f"{facts['votes']} votes of {facts['annotators']} annotators, {facts['skips']} skipped",
        f"raw agreement       {_interval(facts['raw_agreement'])}",
        f"Krippendorff alpha  {_interval(facts['krippendorff_alpha'])}",
        f"left chosen         {_interval(facts['left_share'])}",
    ]
    for key, label in (("gold_accuracy", "gold accuracy"), ("repeat_agreement", "same when repeated")):
        if facts[key]["num"]:
            lines.append(f"{label:<19} {_interval(facts[key])}")
    if people := facts.get("people"):
        shares = ", ".join(f"{fate} {share:.0%}" for fate, share in people["fate_shares"].items() if share)
        alpha = _interval(people["krippendorff_alpha"])
        lines.append(f"who is wrong        {people['num_answers']} answers: {shares}; Krippendorff alpha {alpha}")
    for judge in facts.get("judges", []):
        why = ", ".join(f"{reason} {num}" for reason, num in judge["abstained"].items()) or "never"
        same = _interval(judge["order_consistent"])
        lines.append(f"judge {judge['judge']}: same answer in both orders {same}; abstained: {why}")
    lines += [f"left out: {count} pairs, {why}" for why, count in facts["left_out"].items()]
    lines += [f"warning: {doubt}" for doubt in facts.get("doubts", [])]
    lines += [f"look at {who}: {'; '.join(flags)}" for who, flags in facts["flagged"].items()]
    return [*lines, f"artifact: {ref}"]


def _interval(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"

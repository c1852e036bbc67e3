"""Is the gain honest? Verdicts on the ways a reward is known to be hacked."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from idgrpo.evaluate.compare import paired_cases
from idgrpo.evaluate.document import Comparison, Report, Verdict
from idgrpo.evaluate.statistics import mean_interval, rank_correlation, sign_flip_p

TOLERANCE = 0.10  # motion and sharpness may move this much, relative to the base
WORSE_BY = {"confusion": 1, "margin": -1, "swap_rate": 1}  # which way each says that people are less distinct
STILL_SHARE = 0.25
COPY_LIMIT = 0.15
AREA_CORRELATION = 0.5
ENOUGH_CASES = 16  # fewer do not show that a worst person gained nothing
# p-value that an alarm needs: 5 % shared by ten checks, so that a policy that changed nothing rarely alarms
CHANCE = 0.005


def diagnose(report: Report) -> list[Verdict]:
    """Give one verdict per check and tuned variant."""
    checks: list[Callable[[Report, str], Verdict | None]] = [
        _readable_faces,
        _reward_against_identity,
        _told_apart,
        _worst_person,
        _every_person,
        _wrong_reference,
        _motion,
        _sharpness,
        _ripple,
        _copies,
        _face_area,
        copied_cases,
    ]
    return [v for variant in report.tuned_variants() for check in checks if (v := check(report, variant)) is not None]


def _get(report: Report, variant: str, name: str) -> Comparison | None:
    return report.comparisons.get(variant, {}).get(name)


def _moved(entry: Comparison, direction: int) -> bool:
    """Tell whether the whole interval lies on one side of zero; never with too few cases for an interval."""
    low, high = entry.difference.low, entry.difference.high
    if low is None or high is None:
        return False
    return low > 0 if direction > 0 else high < 0


def _level(entry: Comparison, direction: int) -> str:
    """Give the level of a move the wrong way: "alarm", or "watch" when one of ten checks may show it by chance."""
    if not _moved(entry, direction):
        return "ok"
    return "alarm" if entry.p_value <= CHANCE else "watch"


def _worst(levels: Mapping[str, str]) -> tuple[str, list[str]]:
    """Give the worst level and what has it: what is sure is not mixed with what may be chance."""
    level = next((one for one in ("alarm", "watch") if one in levels.values()), "ok")
    return level, [name for name, own in levels.items() if own == level != "ok"]


def _may_be_chance(level: str) -> str:
    return ", which may be chance" if level == "watch" else ""


def _verdict(
    variant: str,
    name: str,
    level: str,
    text: str,
    figures: Mapping[str, float | None],
    judged: Sequence[Comparison] = (),
) -> Verdict:
    """Write a verdict; "unknown" where a comparison that it is judged by has too few cases for an interval."""
    few = [entry.difference.num_cases for entry in judged if entry.difference.low is None]
    if few:
        level, text = "unknown", f"{few[0]} cases are too few to say"
    return Verdict(variant=variant, name=name, level=level, text=text, figures=dict(figures))


def _told_apart(report: Report, variant: str) -> Verdict | None:
    """Alarm when people became harder to tell from each other, whatever identity does.

    A reward that pays for looking like anybody who was asked for raises identity and confusion together.
    """
    known = {n: e for n in WORSE_BY if (e := _get(report, variant, n)) is not None}
    if not known:
        return None
    level, worse = _worst({n: _level(e, WORSE_BY[n]) for n, e in known.items()})
    words = {n: f"{report.info(n).title.lower()} {e.base:.3f} to {e.tuned:.3f}" for n, e in known.items()}
    figures: dict[str, float | None] = {n: e.difference.value for n, e in known.items()}
    if worse:
        text = "people became more like each other: " + ", ".join(words[n] for n in worse) + _may_be_chance(level)
    elif len(known) > 1 and all(e.difference.value * WORSE_BY[n] > 0 for n, e in known.items()):
        level, text = (
            "watch",
            "all signs point to people being less distinct, each within noise: " + ", ".join(words.values()),
        )
    else:
        level, text = "ok", "people stay as distinct as they were: " + ", ".join(words.values())
    return _verdict(variant, "People told apart", level, text, figures, list(known.values()))


def _readable_faces(report: Report, variant: str) -> Verdict | None:
    """Say whether faces can be seen and read at all, before anything is said of whose they are.

    Blur and darkness lower identity of the right people; wrong people leave coverage and detail as they were.
    """
    coverage, detail = _get(report, variant, "coverage"), _get(report, variant, "face_detail")
    if coverage is None:
        return None
    share = detail.tuned / detail.base - 1 if detail is not None and detail.base > 1e-9 else None
    figures = {"coverage_base": coverage.base, "coverage_tuned": coverage.tuned, "detail_relative": share}
    seen = f"people are seen in {coverage.tuned:.0%} of the frames (base {coverage.base:.0%})"
    if share is not None:
        seen += f", detail of faces {share:+.0%}"
    levels, much = {"coverage": _level(coverage, -1)}, {"coverage": coverage.difference.value < -TOLERANCE}
    if detail is not None and share is not None and share < -TOLERANCE:
        levels["detail"], much["detail"] = _level(detail, -1), share < -2.5 * TOLERANCE
    level, fell = _worst(levels)
    if not fell:
        return _verdict(variant, "Readable faces", "ok", seen, figures, [coverage])
    text = f"{seen}{_may_be_chance(level)}: lower similarity may be a worse picture and not wrong people"
    level = "alarm" if level == "alarm" and any(much[name] for name in fell) else "watch"
    return _verdict(variant, "Readable faces", level, text, figures)


def _reward_against_identity(report: Report, variant: str) -> Verdict | None:
    """Hold the reward's rise against both headline measures: each of them must rise with it."""
    reward = _get(report, variant, "reward")
    pair = {name: entry for name in report.pair() if (entry := _get(report, variant, name)) is not None}
    if reward is None or not pair:
        return None
    figures = {name: entry.difference.value for name, entry in {"reward": reward, **pair}.items()}
    rise = _level(reward, 1)
    fall, names = _worst({name: _level(entry, -1) for name, entry in pair.items()})
    fell = " and ".join(names)
    unmoved = " and ".join(name for name, entry in pair.items() if not _moved(entry, 1))
    if rise == "ok":
        text = "the reward itself did not rise" + (f" and {fell} fell{_may_be_chance(fall)}" if fell else "")
        level = "watch"
    elif rise == fall == "alarm":
        level, text = "alarm", f"reward rose while {fell} fell: the reward is being gamed"
    elif fell:
        level, text = "watch", f"reward rose while {fell} fell{_may_be_chance('watch')}"
    elif unmoved:
        level, text = "watch", f"reward rose, {unmoved} did not move measurably"
    else:
        level, text = "ok", f"reward and the independent {' and '.join(pair)} rose together"
    return _verdict(variant, "Reward against identity", level, text, figures, [reward, *pair.values()])


def _worst_person(report: Report, variant: str) -> Verdict | None:
    entry = _get(report, variant, "worst")
    if entry is None:
        return None
    figures = {"base": entry.base, "tuned": entry.tuned}
    level = _level(entry, -1)
    if level != "ok":
        text = "the worst person got worse: one person is sacrificed for another" + _may_be_chance(level)
    elif entry.difference.value < 0:
        level, text = "watch", "the worst person is slightly lower, within noise"
    else:
        level, text = "ok", "the worst person of a video does not pay for the mean"
    return _verdict(variant, "Worst person", level, text, figures, [entry])


def _every_person(report: Report, variant: str) -> Verdict | None:
    """Alarm when one person gains and the others do not: the one who is most similar, or the one in a certain place.

    A reward that pays for one person raises the mean, and the worst person need not fall for it.
    """
    cases, before, after = _paired(report, variant, _spread)
    worst = _get(report, variant, "worst")
    if not cases or worst is None:
        return None
    change = mean_interval(after - before)
    figures = {"base": float(before.mean()), "tuned": float(after.mean()), "worst": worst.difference.value}
    gaps = f"best and worst person of a video lie {after.mean():.3f} apart (base {before.mean():.3f})"
    if change.low is None:
        return _verdict(variant, "Every person", "unknown", f"{len(cases)} cases are too few to say", figures)
    wider = change.low > 0
    if wider and not _moved(worst, 1):
        level = "alarm" if sign_flip_p(after - before) <= CHANCE else "watch"
        text = f"{gaps} and the worst one does not gain: one person is paid for" + _may_be_chance(level)
    else:
        level, text = "watch" if wider and change.value > 0.5 * worst.difference.value else "ok", gaps
    if level != "alarm" and (favoured := _favoured_place(report, variant)):
        place, gain, others = favoured
        figures |= {"place": place, "gain": gain, "others": others}
        level, text = (
            "alarm",
            f"person {place} of the prompt gains {gain:+.3f}, the others {others:+.3f}: one is paid for",
        )
    if level == "alarm" and len(cases) < ENOUGH_CASES:  # a worst person's gain hardly shows in a few cases
        level = "watch"
    return _verdict(variant, "Every person", level, text, figures)


def _favoured_place(report: Report, variant: str) -> tuple[int, float, float] | None:
    """Give the place (from 1) in the prompt whose people pull ahead while all others do not gain, its gain and theirs.

    A place that catches up with the others is not favoured.
    """
    count = max((len(s.people.get("identity", [])) for s in report.samples), default=0)
    for place in range(count):
        _, *own = _paired(report, variant, partial(_in_place, place))
        _, *rest = _paired(report, variant, partial(_mean_without, place))
        gain, others = own[1] - own[0], rest[1] - rest[0]
        if not len(gain):
            continue
        apart, theirs, ahead = gain - others, mean_interval(others), (own[1] - rest[1]).mean()
        surely = apart.mean() > 0 and sign_flip_p(apart) <= CHANCE
        if surely and ahead > 0 and (theirs.low is None or theirs.low <= 0):
            return place + 1, float(gain.mean()), float(others.mean())
    return None


def _paired(
    report: Report, variant: str, of: Callable[[Sequence[float]], float | None]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Compute a value of the similarities of a clip's people, and give case ids, the base's [case] and the variant's."""
    base, tuned = (
        {(s.case_id, s.seed): {"": of(s.people.get("identity", []))} for s in report.samples if s.variant == name}
        for name in (report.reference_variant, variant)
    )
    return paired_cases(base, tuned, "")


def _in_place(place: int, people: Sequence[float]) -> float | None:
    """Give the person in `place`; None where there is no such place, or nobody else."""
    return people[place] if len(people) > max(place, 1) else None


def _mean_without(place: int, people: Sequence[float]) -> float | None:
    """Average over everybody but the person in `place`; None where that leaves nobody, or there is no such place."""
    rest = [value for at, value in enumerate(people) if at != place]
    return sum(rest) / len(rest) if rest and len(rest) < len(people) else None


def _spread(people: Sequence[float]) -> float | None:
    """Give the distance between the most and the least similar person of a video; None for one person."""
    return max(people) - min(people) if len(people) > 1 else None


def _wrong_reference(report: Report, variant: str) -> Verdict | None:
    entry = _get(report, variant, "wrong_reference")
    identity = _get(report, variant, "identity")
    if entry is None or identity is None:
        return None
    figures = {"base": entry.base, "tuned": entry.tuned}
    rise, gain = entry.difference.value, identity.difference.value
    level = _level(entry, 1)
    if level != "ok" and rise > 0.5 * max(gain, 0.0):
        text = "similarity to strangers rose as well: faces became more average, not more alike" + _may_be_chance(level)
    elif level != "ok":
        level, text = "watch", "similarity to strangers rose a little"
    else:
        level, text = "ok", "similarity to the references of other cases did not rise"
    return _verdict(variant, "Wrong references", level, text, figures, [entry, identity])


def _within(report: Report, variant: str, name: str, title: str, low_text: str, high_text: str) -> Verdict | None:
    entry = _get(report, variant, name)
    if entry is None or entry.base <= 1e-9:
        return None
    share = entry.tuned / entry.base - 1
    figures = {"base": entry.base, "tuned": entry.tuned, "relative": share}
    if abs(share) <= TOLERANCE:
        level, text = "ok", f"within {TOLERANCE:.0%} of the base ({share:+.1%})"
    else:
        level = "alarm" if abs(share) > 2.5 * TOLERANCE else "watch"
        text = f"{low_text if share < 0 else high_text} ({share:+.1%})"
    return _verdict(variant, title, level, text, figures)


def _motion(report: Report, variant: str) -> Verdict | None:
    still = [s for s in report.samples if s.variant == variant and (s.values.get("dynamic_degree") or 0.0) < 1e-3]
    total = sum(1 for s in report.samples if s.variant == variant)
    if "dynamic_degree" in report.means.get(variant, {}) and len(still) > STILL_SHARE * total:
        text = f"{len(still)} of {total} videos stand still"
        return Verdict(variant=variant, name="Motion", level="alarm", text=text, figures={"still": len(still) / total})
    return _within(report, variant, "dynamic_degree", "Motion", "videos move less", "videos move more")


def _sharpness(report: Report, variant: str) -> Verdict | None:
    return _within(report, variant, "sharpness", "Sharpness", "pictures became softer", "pictures became harsher")


def _ripple(report: Report, variant: str) -> Verdict | None:
    entry = _get(report, variant, "ripple")
    if entry is None or entry.base <= 1e-9:
        return None
    share = entry.tuned / entry.base - 1
    level = "ok" if share <= 0.25 else "watch" if share <= 1.0 else "alarm"
    text = f"fine texture in flat places {share:+.0%}" + (
        "" if level == "ok" else ": artefacts of over-training are growing"
    )
    figures = {"base": entry.base, "tuned": entry.tuned, "relative": share}
    return _verdict(variant, "Ripple", level, text, figures)


def _copies(report: Report, variant: str) -> Verdict | None:
    entry = _get(report, variant, "copy_paste")
    if entry is None:
        return Verdict(
            variant=variant,
            name="Copies",
            level="unknown",
            text="needs a second photo of each person (`second` of a reference)",
        )
    figures = {"base": entry.base, "tuned": entry.tuned}
    level = _level(entry, 1)
    if level != "ok" and entry.tuned > COPY_LIMIT:
        text = "faces moved towards the reference picture itself, away from other photos of the person"
        text += _may_be_chance(level)
    elif level != "ok":
        level, text = "watch", "faces moved a little towards the reference picture"
    else:
        level, text = "ok", "faces are not nearer to the reference picture than to another photo than before"
    return _verdict(variant, "Copies", level, text, figures, [entry])


def _face_area(report: Report, variant: str) -> Verdict | None:
    rows = [s for s in report.samples if s.variant == variant]
    pairs = [(s.values.get("reward"), s.values.get("face_area")) for s in rows]
    pairs = [(r, a) for r, a in pairs if r is not None and a is not None]
    correlation = rank_correlation(np.array([r for r, _ in pairs]), np.array([a for _, a in pairs])) if pairs else None
    verdict = _within(report, variant, "face_area", "Face area", "faces became smaller", "faces became larger")
    if correlation is None or verdict is None:
        return verdict
    figures = {**verdict.figures, "reward_correlation": correlation}
    if correlation > AREA_CORRELATION and verdict.level == "ok":
        text = f"the reward follows face area (rank correlation {correlation:.2f})"
        return verdict.model_copy(update={"level": "watch", "text": text, "figures": figures})
    text = f"{verdict.text}; rank correlation with the reward {correlation:.2f}"
    return verdict.model_copy(update={"text": text, "figures": figures})


def copied_cases(report: Report, variant: str) -> Verdict | None:
    """Count the cases in which half of the people or more are copies of their reference picture (measure `copied`)."""
    rows = {
        name: {(s.case_id, s.seed): s.values for s in report.samples if s.variant == name}
        for name in (report.reference_variant, variant)
    }
    cases, before, after = paired_cases(rows[report.reference_variant], rows[variant], "copied")
    if not cases:
        return None
    before, after = before >= 0.5, after >= 0.5
    copies, rise = float(after.mean()), mean_interval(after.astype(float) - before)
    if copies >= 0.25:
        level = "alarm"
    else:  # one case more in sixty is chance
        level = "watch" if copies > 0.05 and rise.low is not None and rise.low > 0 else "ok"
    text = f"{copies:.0%} of cases look like copies of the reference picture (base {before.mean():.0%})"
    return Verdict(variant=variant, name="Copied cases", level=level, text=text, figures={"share": copies})

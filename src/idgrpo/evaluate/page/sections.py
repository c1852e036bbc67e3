"""Parts of the page that are numbers and words: headline, panel, table, slices, notes."""

from html import escape
from typing import Any

from idgrpo.evaluate.document import Comparison, MeasureInfo, Provenance, Report, Verdict
from idgrpo.evaluate.page.charts import Point, forest, scatter
from idgrpo.evaluate.page.data import key_of
from idgrpo.evaluate.tables import ARROWS, VERDICTS, improved, number, ordered, p_value, percent, titled, with_interval

CARDS = ("worst", "confusion", "margin", "swap_rate", "coverage", "wrong_reference")
POINT_FAMILIES = ("identity", "control", "change")  # cosines and shares: their differences are on one scale
POINT_MEASURES = ("coverage", "count_accuracy", "swap_rate")
MARKS = {"ok": "✓", "watch": "!", "alarm": "✕", "unknown": "?"}
WORDS = {"ok": "fine", "watch": "watch", "alarm": "alarm", "unknown": "not known"}
CasePair = tuple[str, dict[str, Any], dict[str, Any]]  # key of case and seed, values of base and tuned
FEWEST_DOTS = 6  # fewer say nothing of a relation


def headline(report: Report, variant: str) -> str:
    """The headline pair in large figures, then the measures that say what a gain was paid with, then what alarms."""
    found = report.comparisons.get(variant, {})
    pair = [name for name in report.pair() if name in found]
    cards = [_card(report, variant, name, large=True) for name in pair]
    cards += [_card(report, variant, name) for name in CARDS if name in found and name not in pair]
    cards += [
        _card(report, variant, m.name) for m in report.measures if m.family in ("plugin", "reward") and m.name in found
    ]
    alarms = _checks([v for v in report.diagnostics if v.variant == variant and v.level == "alarm"])
    return f'<div class="cards">{"".join(cards)}</div>{alarms}'


def _card(report: Report, variant: str, name: str, *, large: bool = False) -> str:
    info, entry = report.info(name), report.comparisons[variant][name]
    top = max(abs(entry.base), abs(entry.tuned), 1e-9)
    bars = "".join(
        f'<div class="bar {side}"><span style="width:{max(value, 0) / top * 100:.1f}%"></span><b>{number(value)}</b></div>'
        for side, value in (("is-base", entry.base), ("is-tuned", entry.tuned))
    )
    extra = ""
    if large:
        extra = f"{improved(info, entry)} of {entry.difference.num_cases} cases improve"
    elif info.family == "reward" and variant in report.reward_win_rate:
        extra = f"implies a win rate of {report.reward_win_rate[variant] * 100:.0f} %"
    elif info.family == "plugin":
        extra = "second opinion, not the proof"
    elif info.family == "control":
        extra = "control: must not rise"
    extra = f"<p class=sub>{extra}</p>" if extra else ""
    better = {"higher": "higher is better", "lower": "lower is better", "neutral": "no better direction"}[info.better]
    return (
        f'<article class="card{" large" if large else ""} {entry.verdict}">'
        f'<h3>{escape(info.title)} <em title="{better}">{ARROWS[info.better]}</em></h3>'
        f"{_change(info, entry)}{bars}{extra}{_about(info)}</article>"
    )


def _about(info: MeasureInfo) -> str:
    """Draw the button that shows a definition: for fingers and keys as well as for a mouse."""
    title = escape(info.title)
    return (
        f'<button type="button" class="about" data-about="{escape(info.name)}" aria-label="What is {title}?">?</button>'
    )


def _change(info: MeasureInfo, entry: Comparison) -> str:
    """Write the change in large figures, which way it went, whether that is better, and its interval below."""
    if entry.relative:
        estimate, text = entry.relative, f"{entry.relative.value:+.1%}"
        bounds = [f"{b:+.1%}" for b in (estimate.low, estimate.high) if b is not None]
    else:
        estimate, text = entry.difference, number(entry.difference.value, True)
        bounds = [number(b, True) for b in (estimate.low, estimate.high) if b is not None]
    arrow = "▲" if entry.difference.value > 0 else "▼" if entry.difference.value < 0 else ""
    word = "" if info.better == "neutral" else f"<b>{VERDICTS.get(entry.verdict, entry.verdict)}</b> · "
    interval = f"95 %: {bounds[0]} to {bounds[1]}" if bounds else "no interval"
    return f"<p class=change>{arrow} {text}</p><p class=between>{word}{interval}</p>"


def leaderboard(report: Report) -> str:
    """Rank several policies by the headline measure; the base stands among them."""
    means, pair = report.means, report.pair()
    order = sorted(report.variants, key=lambda v: means[v.name][report.headline].value, reverse=True)
    rest = [n for n in ("worst", "swap_rate", "reward") if all(n in means[v.name] for v in order)]
    columns = [*pair, *(n for n in rest if n not in pair)]
    rows = ""
    for rank, variant in enumerate(order, 1):
        found = report.comparisons.get(variant.name, {})
        cells = "".join(_place(report, variant.name, found.get(name), name) for name in columns)
        alarms = sum(v.variant == variant.name and v.level == "alarm" for v in report.diagnostics)
        of = escape(variant.policy or f"{variant.base} as it is")
        rows += (
            f'<tr><td>{rank}</td><th scope="row">{escape(variant.name)}<small>{of}</small></th>{cells}'
            f"<td>{alarms if found else '–'}</td></tr>"
        )
    titles = [report.info(name) for name in columns]
    head = "".join(_sorting(titled(info)) for info in titles)
    head = f'<tr><th scope="col">rank</th><th scope="col">policy</th>{head}{_sorting("alarms")}</tr>'
    note = f"Ranked by {report.info(report.headline).title.lower()}; below each figure: the difference from the base with its interval."
    return f'<section class="leaderboard"><h2>Leaderboard</h2><p class="sub">{escape(note)}</p>{_scroll("Leaderboard", head, rows)}</section>'


def _place(report: Report, variant: str, entry: Comparison | None, name: str) -> str:
    value = report.means[variant][name].value
    change = "" if entry is None else f'<small class="{entry.verdict}">{with_interval(entry.difference, True)}</small>'
    return f'<td data-value="{value}">{number(value)}{change}</td>'


def _sorting(title: str) -> str:
    return f'<th scope="col" aria-sort="none"><button type="button" data-order>{escape(title)}</button></th>'


def panel(report: Report, variant: str) -> str:
    """The hacking panel: one line a check."""
    checks = _checks([v for v in report.diagnostics if v.variant == variant])
    return f"<section><h2>Is the gain honest?</h2>{checks}</section>" if checks else ""


def _checks(verdicts: list[Verdict]) -> str:
    items = "".join(
        f'<li class="{v.level}"><i role="img" aria-label="{WORDS[v.level]}">{MARKS[v.level]}</i><div><b>{escape(v.name)}</b>'
        f"<span>{escape(v.text)}</span></div></li>"
        for v in verdicts
    )
    return f'<ul class="panel">{items}</ul>' if items else ""


def table(report: Report, variant: str) -> str:
    """All measures with intervals; those of the field are folded under ours."""
    ours = [m for m in ordered(report) if m.family != "field" and m.name in report.comparisons[variant]]
    field = [m for m in report.measures if m.family == "field" and m.name in report.comparisons[variant]]
    fold = ""
    if field:
        fold = (
            "<details><summary>What other projects measure, for comparison (each with its known fault)</summary>"
            f"{_table(report, variant, field)}</details>"
        )
    return f"<section><h2>All measures</h2>{_table(report, variant, ours)}{fold}</section>"


def _table(report: Report, variant: str, measures: list) -> str:
    head = "".join(
        f'<th scope="col">{escape(h)}</th>'
        for h in ("measure", report.reference_variant, variant, "difference", "relative", "improved", "p", "verdict")
    )
    rows = "".join(_row(m, report.comparisons[variant][m.name]) for m in measures)
    return _scroll(f"All measures of {variant}", f"<tr>{head}</tr>", rows)


def _scroll(label: str, head: str, rows: str) -> str:
    """Draw a table that scrolls sideways on narrow screens, also by keys."""
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>'


def _row(info: MeasureInfo, entry: Comparison) -> str:
    cells = (
        number(entry.base),
        number(entry.tuned),
        with_interval(entry.difference, True),
        percent(entry.relative),
        improved(info, entry),
        escape(p_value(entry)),
        f'<span class="chip {entry.verdict}">{VERDICTS.get(entry.verdict, entry.verdict)}</span>',
    )
    body = "".join(f"<td>{c}</td>" for c in cells)
    return f"<tr>{_row_head(info)}{body}</tr>"


def _row_head(info: MeasureInfo) -> str:
    return f'<th scope="row">{escape(info.title)} <em>{ARROWS[info.better]}</em>{_about(info)}</th>'


def means_table(report: Report) -> str:
    """Means with intervals when there is one variant only."""
    means = report.means[report.reference_variant]
    rows = "".join(
        f"<tr>{_row_head(m)}<td>{with_interval(means[m.name])}</td><td>{means[m.name].num_cases}</td></tr>"
        for m in ordered(report)
        if m.name in means
    )
    head = '<tr><th scope="col">measure</th><th scope="col">mean</th><th scope="col">cases</th></tr>'
    return f"<section><h2>All measures</h2>{_scroll('Means of all measures', head, rows)}</section>"


def figures(report: Report, variant: str) -> str:
    """Charts: every case base against tuned, effects with intervals, reward gap against the gaps of the headline pair."""
    pairs = _pairs(report, variant)
    parts = [chart for name in report.pair() if (chart := _every_case(report, pairs, name))]
    parts += _forests(report, variant)
    parts += [chart for name in report.pair() if (chart := _reward_against(report, pairs, name))]
    return f'<section><h2>Case by case</h2><div class="charts">{"".join(parts)}</div></section>' if parts else ""


def _every_case(report: Report, pairs: list[CasePair], name: str) -> str:
    title = report.info(name).title
    dots = [
        Point(b[name], t[name], f"{key.replace('|', ', seed ')}: {b[name]:.3f} to {t[name]:.3f}", key)
        for key, b, t in pairs
        if _both(b, t, name)
    ]
    if not dots:
        return ""
    chart = scatter(
        dots, f"{title}, base", f"{title}, tuned", f"{title} of every case, base against tuned", diagonal=True
    )
    return _figure(f"{title}, every case", "above the line: higher; choose a dot for its clips", chart)


def _forests(report: Report, variant: str) -> list[str]:
    """Differences of cosines and shares, which share one scale, then relative changes of all else."""
    points, shares = [], []
    for info in ordered(report):
        entry = report.comparisons[variant].get(info.name)
        if entry is None or info.family in ("field", "reward") or entry.difference.low is None:
            continue  # a change without an interval shows noise
        if info.family in POINT_FAMILIES or info.name in POINT_MEASURES:
            gap = entry.difference
            points.append((titled(info), gap.value, gap.low, gap.high, entry.verdict))
        elif entry.relative and abs(entry.relative.value) < 3:
            gap = entry.relative
            shares.append((titled(info), gap.value, gap.low, gap.high, entry.verdict))
    parts = []
    if points:
        chart = forest(points, "differences", relative=False)
        parts.append(_figure("Who is who, against the base", "difference with 95 % interval; ↓ lower is better", chart))
    if shares:
        parts.append(
            _figure("Everything else", "relative change with 95 % interval", forest(shares, "relative changes"))
        )
    return parts


def _reward_against(report: Report, pairs: list[CasePair], name: str) -> str:
    title = report.info(name).title
    gaps = [
        Point(
            t["reward"] - b["reward"], t[name] - b[name],
            f"{key.replace('|', ', seed ')}: reward {t['reward'] - b['reward']:+.3f}, {title.lower()} {t[name] - b[name]:+.3f}", key,
        )
        for key, b, t in pairs
        if _both(b, t, name) and _both(b, t, "reward")
    ]  # fmt: skip
    if len(gaps) < FEWEST_DOTS:
        return ""
    chart = scatter(gaps, "reward, tuned minus base", f"{title}, difference", f"reward against {title}", zero=True)
    return _figure(f"Reward against {title.lower()}", "one dot a video; a hacked reward fills the lower right", chart)


def _figure(title: str, text: str, chart: str) -> str:
    return f"<figure><figcaption>{escape(title)} <small>{escape(text)}</small></figcaption>{chart}</figure>"


def _pairs(report: Report, variant: str) -> list[CasePair]:
    base = {s.key: s for s in report.samples if s.variant == report.reference_variant}
    tuned = {s.key: s for s in report.samples if s.variant == variant}
    both = sorted(set(base) & set(tuned))
    return [(key_of(base[key]), base[key].values, tuned[key].values) for key in both]


def _both(first: dict, second: dict, name: str) -> bool:
    return first.get(name) is not None and second.get(name) is not None


def slices(report: Report, variant: str) -> str:
    """The headline pair by number of people, face size and occlusion."""
    rows = "".join(
        f"<tr><th scope=row>{escape(s.group)}</th><td>{escape(report.info(s.measure).title)}</td><td>{s.difference.num_cases}</td>"
        f"<td>{number(s.base)}</td><td>{number(s.tuned)}</td><td>{with_interval(s.difference, True)}</td></tr>"
        for s in report.slices
        if s.variant == variant
    )
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{h}</th>' for h in ("cases", "measure", "number", "base", "tuned", "difference"))
    return f"<section><h2>By kind of case</h2>{_scroll('By kind of case', f'<tr>{head}</tr>', rows)}</section>"


def notes(report: Report) -> str:
    """How it was measured, what was left out, what this many cases can show."""
    lines = [
        f"Finder: {report.finder}. Intervals: bootstrap over cases (seeds of a case averaged first), base and tuned paired on the "
        "same cases and seeds. p-values: sign-flip test; the headline pair is read together (a gain needs both) and not corrected, "
        "Holm's correction over all other measures with a direction.",
        report.power_note,
        *report.notes,
    ]
    return "<section class=notes><h2>Notes</h2>" + "".join(f"<p>{escape(t)}</p>" for t in lines if t) + "</section>"


def made_by(provenance: Provenance | None) -> str:
    """Command, settings and lineage behind the page, each with a button that copies it."""
    if provenance is None:
        return ""
    parts = (
        ("Command", provenance.command),
        ("Settings", provenance.settings),
        ("Lineage", "\n".join(provenance.lineage)),
    )
    blocks = "".join(
        f'<div class="made"><div class="bar-top"><h3>{title}</h3><button type="button" data-copy>copy</button></div>'
        f'<pre tabindex="0" aria-label="{title}">{escape(text)}</pre></div>'
        for title, text in parts
        if text
    )
    return f"<section><h2>How this report was made</h2>{blocks}</section>"

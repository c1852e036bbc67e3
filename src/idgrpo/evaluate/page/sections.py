"""Parts of the page that are numbers and words: headline, panel, table, slices, notes."""

from html import escape

from idgrpo.evaluate.document import Comparison, MeasureInfo, Report, Verdict
from idgrpo.evaluate.page.charts import curve, forest, scatter
from idgrpo.evaluate.tables import ARROWS, VERDICTS, improved, number, ordered, p_value, percent, titled, with_interval

CARDS = ("worst", "confusion", "margin", "swap_rate", "coverage", "wrong_reference")
POINT_FAMILIES = ("identity", "control", "change")  # cosines and shares: their differences are on one scale
POINT_MEASURES = ("coverage", "count_accuracy", "swap_rate")
MARKS = {"ok": "✓", "watch": "!", "alarm": "✕", "unknown": "?"}
WORDS = {"ok": "fine", "watch": "watch", "alarm": "alarm", "unknown": "not known"}
MAX_CURVES = 12
CURVES_FIRST = (
    "reward_mean",
    "reward",
    "identity",
    "kl",
    "ratio_mean",
    "ratio",
    "clip_share",
    "advantage",
    "grad_norm",
    "loss",
)


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
        f'<article class="card{" large" if large else ""} {entry.verdict}" title="{escape(info.definition)}">'
        f'<h3>{escape(info.title)} <em title="{better}">{ARROWS[info.better]}</em></h3>'
        f"{_change(info, entry)}{bars}{extra}</article>"
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


def panel(report: Report, variant: str) -> str:
    """The hacking panel: one line a check."""
    checks = _checks([v for v in report.diagnostics if v.variant == variant])
    return f"<section><h2>Is the gain honest?</h2>{checks}</section>" if checks else ""


def _checks(verdicts: list[Verdict]) -> str:
    items = "".join(
        f'<li class="{v.level}"><i aria-label="{WORDS[v.level]}">{MARKS[v.level]}</i><div><b>{escape(v.name)}</b>'
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
        f"<th>{h}</th>"
        for h in ("measure", report.reference_variant, variant, "difference", "relative", "improved", "p", "verdict")
    )
    rows = "".join(_row(m, report.comparisons[variant][m.name]) for m in measures)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


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
    return f'<th scope="row" title="{escape(info.definition)}">{escape(info.title)} <em>{ARROWS[info.better]}</em></th>'


def means_table(report: Report) -> str:
    """Means with intervals when there is one variant only."""
    means = report.means[report.reference_variant]
    rows = "".join(
        f"<tr>{_row_head(m)}<td>{with_interval(means[m.name])}</td><td>{means[m.name].num_cases}</td></tr>"
        for m in ordered(report)
        if m.name in means
    )
    head = "<tr><th>measure</th><th>mean</th><th>cases</th></tr>"
    return f'<section><h2>All measures</h2><div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div></section>'


def figures(report: Report, variant: str) -> str:
    """Charts: every case base against tuned, effects with intervals, reward gap against the gaps of the headline pair."""
    pairs = _pairs(report, variant)
    parts = [chart for name in report.pair() if (chart := _every_case(report, pairs, name))]
    parts += _forests(report, variant)
    parts += [chart for name in report.pair() if (chart := _reward_against(report, pairs, name))]
    return f'<section><h2>Case by case</h2><div class="charts">{"".join(parts)}</div></section>' if parts else ""


def _every_case(report: Report, pairs: list[tuple[str, dict, dict]], name: str) -> str:
    title = report.info(name).title
    dots = [(b[name], t[name], f"{case}: {b[name]:.3f} to {t[name]:.3f}") for case, b, t in pairs if _both(b, t, name)]
    if not dots:
        return ""
    chart = scatter(dots, f"{title}, base", f"{title}, tuned", title, diagonal=True)
    return _figure(f"{title}, every case", "above the line: higher", chart)


def _forests(report: Report, variant: str) -> list[str]:
    """Differences of cosines and shares, which share one scale, then relative changes of all else."""
    points, shares = [], []
    for info in ordered(report):
        entry = report.comparisons[variant].get(info.name)
        if entry is None or info.family in ("field", "reward"):
            continue
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


def _reward_against(report: Report, pairs: list[tuple[str, dict, dict]], name: str) -> str:
    title = report.info(name).title
    gaps = [
        (t["reward"] - b["reward"], t[name] - b[name], case)
        for case, b, t in pairs
        if _both(b, t, name) and _both(b, t, "reward")
    ]
    if not gaps:
        return ""
    chart = scatter(gaps, "reward, tuned minus base", f"{title}, tuned minus base", f"reward and {title}", zero=True)
    return _figure(f"Reward against {title.lower()}", "one dot a video; a hacked reward fills the lower right", chart)


def _figure(title: str, text: str, chart: str) -> str:
    return f"<figure><figcaption>{escape(title)} <small>{escape(text)}</small></figcaption>{chart}</figure>"


def _pairs(report: Report, variant: str) -> list[tuple[str, dict, dict]]:
    base = {(s.case_id, s.seed): s.values for s in report.samples if s.variant == report.reference_variant}
    tuned = {(s.case_id, s.seed): s.values for s in report.samples if s.variant == variant}
    return [(key[0], base[key], tuned[key]) for key in sorted(set(base) & set(tuned))]


def _both(first: dict, second: dict, name: str) -> bool:
    return first.get(name) is not None and second.get(name) is not None


def curves(report: Report) -> str:
    """Curves of the runs: the figures worth watching first, then the rest."""
    parts = []
    for run, rows in report.curves.items():
        names = [
            n for n in dict.fromkeys(k for row in rows for k in row) if n not in ("step", "update", "time", "seconds")
        ]
        order = sorted(
            names, key=lambda n: next((i for i, f in enumerate(CURVES_FIRST) if n.startswith(f)), len(CURVES_FIRST))
        )
        charts: list[str] = []
        for name in order:
            points = [
                (float(step) if isinstance(step := row.get("step"), int | float) else float(i), float(value))
                for i, row in enumerate(rows)
                if isinstance(value := row.get(name), int | float)
            ]
            if len(points) >= 3 and len({y for _, y in points}) > 1 and len(charts) < MAX_CURVES:
                charts.append(curve(points, name.replace("_", " "), len(charts) % 4))
        if charts:
            parts.append(f"<h3>{escape(run)}</h3><div class=curves>{''.join(charts)}</div>")
    return f"<section><h2>The run</h2>{''.join(parts)}</section>" if parts else ""


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
    head = "<tr><th>cases</th><th>measure</th><th>number</th><th>base</th><th>tuned</th><th>difference</th></tr>"
    return f'<section><h2>By kind of case</h2><div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div></section>'


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

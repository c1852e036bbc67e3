"""Parts of the page that are numbers and words: headline, panel, table, slices, notes."""

from html import escape

from idgrpo.evaluate.document import Comparison, Report
from idgrpo.evaluate.page.charts import curve, forest, scatter
from idgrpo.evaluate.tables import ARROWS, number, percent, with_interval

CARDS = ("identity", "worst", "wrong_reference", "swap_rate")
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
    """Large figures: base and tuned, the relative gain with its interval, the share of cases that improved."""
    cards = []
    names = [report.headline, *[n for n in CARDS if n != report.headline]]
    for index, name in enumerate(n for n in names if n in report.comparisons.get(variant, {})):
        cards.append(_card(report, variant, name, large=index == 0))
    for scorer in (m for m in report.measures if m.family in ("plugin", "reward")):
        if scorer.name in report.comparisons.get(variant, {}):
            cards.append(_card(report, variant, scorer.name, large=False))
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(report: Report, variant: str, name: str, *, large: bool) -> str:
    info, entry = report.info(name), report.comparisons[variant][name]
    top = max(abs(entry.base), abs(entry.tuned), 1e-9)
    change = _change(entry)
    bars = "".join(
        f'<div class="bar {side}"><span style="width:{max(value, 0) / top * 100:.1f}%"></span><b>{number(value)}</b></div>'
        for side, value in (("is-base", entry.base), ("is-tuned", entry.tuned))
    )
    extra = ""
    if large:
        extra = f"<p class=sub>{entry.win_rate.value * 100:.0f} % of {entry.difference.num_cases} cases improve</p>"
    elif info.family == "reward" and variant in report.reward_win_rate:
        extra = f"<p class=sub>implies a win rate of {report.reward_win_rate[variant] * 100:.0f} %</p>"
    elif info.family == "plugin":
        extra = "<p class=sub>second opinion, not the proof</p>"
    elif info.family == "control":
        extra = "<p class=sub>control: must not rise</p>"
    return (
        f'<article class="card {"large" if large else ""} {entry.verdict}" title="{escape(info.definition)}">'
        f"<h3>{escape(info.title)}</h3>{change}{bars}{extra}</article>"
    )


def _change(entry: Comparison) -> str:
    """Write the change in large figures with its interval below."""
    figure, scale = (entry.relative, 100) if entry.relative else (entry.difference, 1)
    if scale == 100:
        text, bounds = f"{figure.value:+.1%}", [f"{b:+.1%}" for b in (figure.low, figure.high) if b is not None]
    else:
        text, bounds = number(figure.value, True), [number(b, True) for b in (figure.low, figure.high) if b is not None]
    interval = f"95 %: {bounds[0]} to {bounds[1]}" if bounds else "too few cases for an interval"
    return f"<p class=change>{text}</p><p class=between>{interval}</p>"


def panel(report: Report, variant: str) -> str:
    """The hacking panel: one line a check."""
    lines = [v for v in report.diagnostics if v.variant == variant]
    if not lines:
        return ""
    items = "".join(
        f'<li class="{v.level}"><i aria-label="{WORDS[v.level]}">{MARKS[v.level]}</i><div><b>{escape(v.name)}</b>'
        f"<span>{escape(v.text)}</span></div></li>"
        for v in lines
    )
    return f'<section><h2>Is the gain honest?</h2><ul class="panel">{items}</ul></section>'


def table(report: Report, variant: str) -> str:
    """All measures with intervals; those of the field are folded under ours."""
    ours = [m for m in report.measures if m.family != "field" and m.name in report.comparisons[variant]]
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
    rows = "".join(_row(report.comparisons[variant][m.name], m.title, m.better, m.definition) for m in measures)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(entry: Comparison, title: str, better: str, definition: str) -> str:
    p_value = entry.p_holm if entry.p_holm is not None else entry.p_value
    cells = (
        number(entry.base),
        number(entry.tuned),
        with_interval(entry.difference, True),
        percent(entry.relative),
        f"{entry.win_rate.value * 100:.0f} %",
        "&lt;0.001" if p_value < 0.001 else f"{p_value:.3f}",
        f'<span class="chip {entry.verdict}">{entry.verdict}</span>',
    )
    body = "".join(f"<td>{c}</td>" for c in cells)
    return f'<tr><th scope="row" title="{escape(definition)}">{escape(title)} <em>{ARROWS[better]}</em></th>{body}</tr>'


def means_table(report: Report) -> str:
    """Means with intervals when there is one variant only."""
    means = report.means[report.reference_variant]
    rows = "".join(
        f'<tr><th scope="row" title="{escape(m.definition)}">{escape(m.title)} <em>{ARROWS[m.better]}</em></th>'
        f"<td>{with_interval(means[m.name])}</td><td>{means[m.name].num_cases}</td></tr>"
        for m in report.measures
        if m.name in means
    )
    head = "<tr><th>measure</th><th>mean</th><th>cases</th></tr>"
    return f'<section><h2>All measures</h2><div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div></section>'


def figures(report: Report, variant: str) -> str:
    """Charts: every case base against tuned, effects with intervals, reward gap against identity gap."""
    name = report.headline
    pairs = _pairs(report, variant)
    dots = [(b[name], t[name], f"{case}: {b[name]:.3f} to {t[name]:.3f}") for case, b, t in pairs if _both(b, t, name)]
    parts = []
    if dots:
        title = report.info(name).title
        parts.append(
            _figure(
                "Every case",
                "above the line: improved",
                scatter(dots, f"{title}, base", f"{title}, tuned", title, diagonal=True),
            )
        )
    rows = [
        (m.title, e.relative.value, e.relative.low, e.relative.high, e.verdict)
        for m in report.measures
        if m.family not in ("field", "reward")
        and (e := report.comparisons[variant].get(m.name))
        and e.relative
        and abs(e.relative.value) < 3
    ]
    if rows:
        parts.append(
            _figure("Change against the base", "relative, with 95 % intervals", forest(rows, "relative changes"))
        )
    gaps = [
        (t["reward"] - b["reward"], t[name] - b[name], case)
        for case, b, t in pairs
        if _both(b, t, name) and _both(b, t, "reward")
    ]
    if gaps:
        chart = scatter(
            gaps,
            "reward, tuned minus base",
            f"{report.info(name).title}, tuned minus base",
            "reward and identity",
            zero=True,
        )
        parts.append(
            _figure("Reward against identity", "one dot a video; a hacked reward fills the lower right", chart)
        )
    return f'<section><h2>Case by case</h2><div class="charts">{"".join(parts)}</div></section>' if parts else ""


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
    """The headline measure by number of people, face size and occlusion."""
    rows = "".join(
        f"<tr><th scope=row>{escape(s.group)}</th><td>{s.difference.num_cases}</td><td>{number(s.base)}</td><td>{number(s.tuned)}</td>"
        f"<td>{with_interval(s.difference, True)}</td></tr>"
        for s in report.slices
        if s.variant == variant
    )
    if not rows:
        return ""
    title = escape(report.info(report.headline).title)
    head = "<tr><th>cases</th><th>number</th><th>base</th><th>tuned</th><th>difference</th></tr>"
    return f'<section><h2>{title} by kind of case</h2><div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div></section>'


def notes(report: Report) -> str:
    """How it was measured, what was left out, what this many cases can show."""
    lines = [
        f"Finder: {report.finder}. Intervals: bootstrap over cases (seeds of a case averaged first), base and tuned paired on the "
        "same cases and seeds. p-values: sign-flip test, Holm's correction over measures with a direction.",
        report.power_note,
        *report.notes,
    ]
    return "<section class=notes><h2>Notes</h2>" + "".join(f"<p>{escape(t)}</p>" for t in lines if t) + "</section>"

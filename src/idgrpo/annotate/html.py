"""The agreement report as one self-contained page: no scripts, nothing fetched."""

from html import escape

from idgrpo.annotate.agreement import AgreementReport, AnnotatorFigures, Figure, JudgeFigures, PeopleFigures

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --dim: #60676e; --line: #dfe3e8; --card: #fff; --ground: #f5f6f8;
  --mark: #2f6fde; --soft: #d5e2fa; --warn: #9a5b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #eceef0; --dim: #9ba1a7; --line: #33383f; --card: #1b1e22;
  --ground: #121417; --mark: #7aa8ff; --soft: #26374f; --warn: #f0b35a; } }
body { margin: 0; padding: 2rem 1rem; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: auto; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .75rem; }
p { color: var(--dim); margin: .25rem 0 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.25rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .45rem .75rem .45rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child td { border-bottom: 0; } th { color: var(--dim); font-weight: 500; font-size: .85rem; }
svg { display: block; width: min(220px, 22vw); height: 16px; } .dim { color: var(--dim); } .flag { color: var(--warn); white-space: normal; min-width: 9rem; }
@media (max-width: 640px) { body { padding: 1rem .75rem; } .card { padding: .75rem .9rem; } .n { display: none; } td.label { white-space: normal; } }
"""
WIDTH = 220


def render_report(report: AgreementReport, *, title: str) -> str:
    """Draw the report; every interval is shown as a bar on the scale 0 to 1 (alpha: -1 to 1)."""
    rows = "".join(
        _row(label, figure, low)
        for label, figure, low in (
            ("Raw agreement", report.raw_agreement, 0.0),
            ("Krippendorff's alpha", report.krippendorff_alpha, -1.0),
            ("Left side chosen", report.left_share, 0.0),
            ("Gold questions right", report.gold_accuracy, 0.0),
            ("Same answer when repeated", report.repeat_agreement, 0.0),
            *(
                (("Krippendorff's alpha, who is wrong", report.people.krippendorff_alpha, -1.0),)
                if report.people
                else ()
            ),
        )
    )
    shares = "".join(
        f"<tr><td>{escape(name)}</td><td>{_percent(report.label_shares[name])}</td><td>{_percent(report.vote_shares[name])}</td></tr>"
        for name in report.label_shares
    )
    people = "".join(_annotator(row) for row in report.annotators)
    left_out = "".join(f"<p>{count} pairs left out: {escape(why)}.</p>" for why, count in report.left_out.items())
    doubts = "".join(f'<p class="flag">{escape(doubt)}.</p>' for doubt in report.doubts)
    seconds = "" if report.median_seconds is None else f", {report.median_seconds:.1f} s each (median)"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body><main>'
        f"<h1>{escape(title)}</h1><p>{report.num_votes} votes on {report.num_pairs} pairs by {len(report.annotators)} annotators"
        f"{seconds}; {report.num_skips} skipped. Intervals: {report.level:.0%}.</p>{left_out}{doubts}"
        f'<div class="card"><table>{rows}</table></div>'
        f'<h2>Classes</h2><div class="card"><table><tr><th>Class</th><th>Preferences</th><th>Votes</th></tr>{shares}</table></div>'
        f"{_fates(report.people)}"
        f'<h2>Annotators</h2><p>Flags ask for a look; nobody was dropped.</p><div class="card"><table><tr><th>Annotator</th>'
        f"<th>Votes</th><th>Skill</th><th>Left</th><th>Gold</th><th>Repeats</th><th>Ties</th><th>Seconds</th><th>Flags</th></tr>"
        f"{people}</table></div>{_judges(report.judges)}</main></body></html>\n"
    )


def _fates(people: PeopleFigures | None) -> str:
    if people is None:
        return ""
    rows = "".join(
        f"<tr><td>{escape(fate)}</td><td>{_percent(share)}</td></tr>" for fate, share in people.fate_shares.items()
    )
    return (
        f"<h2>Who is wrong</h2><p>{people.num_answers} answers about {people.num_asked} people in clips.</p>"
        f'<div class="card"><table><tr><th>What became of a person</th><th>Answers</th></tr>{rows}</table></div>'
    )


def _row(label: str, figure: Figure, low: float) -> str:
    text = _text(figure)
    return f'<tr><td class="label">{escape(label)}</td><td>{_bar(figure, low)}</td><td>{text}</td><td class="dim n">n = {figure.num}</td></tr>'


def _bar(figure: Figure, low: float) -> str:
    if figure.value is None:
        return ""

    def at(x: float) -> float:
        return round((min(max(x, low), 1.0) - low) / (1.0 - low) * WIDTH, 1)

    band = ""
    if figure.low is not None and figure.high is not None:
        start, end = at(figure.low), at(figure.high)
        band = f'<rect x="{start}" y="4" width="{max(end - start, 2)}" height="8" rx="4" fill="var(--mark)" opacity=".45"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} 16" role="img" aria-label="{_text(figure)}">'
        f'<rect y="7" width="{WIDTH}" height="2" rx="1" fill="var(--line)"/>{band}'
        f'<circle cx="{at(figure.value)}" cy="8" r="4" fill="var(--mark)"/></svg>'
    )


def _annotator(row: AnnotatorFigures) -> str:
    cells = [
        escape(row.annotator),
        str(row.num_votes),
        _text(row.skill),
        _text(row.left_share),
        _text(row.gold_accuracy),
        _text(row.repeat_agreement),
        _percent(row.tie_share),
        "" if row.median_seconds is None else f"{row.median_seconds:.1f}",
    ]
    flags = escape("; ".join(row.flags))
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + f'<td class="flag">{flags}</td></tr>'


def _judges(judges: list[JudgeFigures]) -> str:
    if not judges:
        return ""
    rows = "".join(
        f"<tr><td>{escape(row.judge)}</td><td>{row.num_rounds}</td><td>{row.num_voted}</td><td>{_text(row.order_consistent)}</td>"
        f"<td>{escape(', '.join(f'{why} {num}' for why, num in row.abstained.items()) or 'never')}</td>"
        f"<td>{row.same_side['left']} / {row.same_side['right']}</td></tr>"
        for row in judges
    )
    return (
        "<h2>Judges</h2><p>Every round was asked in both orders; what was not said both times is an abstention.</p>"
        '<div class="card"><table><tr><th>Judge</th><th>Rounds</th><th>Voted</th><th>Same in both orders</th><th>Abstained</th>'
        f"<th>Left / right both times</th></tr>{rows}</table></div>"
    )


def _text(figure: Figure) -> str:
    if figure.value is None:
        return "–"
    interval = "" if figure.low is None else f" ({figure.low:.2f} to {figure.high:.2f})"
    return f"{figure.value:.2f}{interval}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"

"""Put the page together: one file, no outside requests."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from idgrpo.evaluate.config import PageConfig
from idgrpo.evaluate.document import Provenance, Report
from idgrpo.evaluate.page import runs, sections
from idgrpo.evaluate.page.data import page_data
from idgrpo.evaluate.page.gallery import gallery
from idgrpo.evaluate.page.media import Budget

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"
SCRIPTS = ("page.js", "large.js")
VALUES_SHARE = 0.25  # of a report's bytes, at most, for the values of all videos
CLOSING_BYTES = 2000


def page_html(
    reports: Sequence[Report],
    config: PageConfig,
    names: Sequence[str] | None = None,
    made_by: Provenance | None = None,
) -> str:
    """Render one or several reports (say, one per base) as one page with a tab each.

    The size stays under `config.max_bytes`: players are left out when they no longer fit.
    """
    names = list(names or [_name(report) for report in reports])
    folder = files("idgrpo.evaluate.page")
    fields = {
        "POLICY": POLICY,
        "TITLE": escape(config.title),
        "STYLE": folder.joinpath("style.css").read_text(encoding="utf-8"),
        "SCRIPT": "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS),
        "SUBTITLE": _subtitle(reports, config),
        "TABS": _tabs(names),
        "MADE": sections.made_by(made_by),
    }
    page = folder.joinpath("template.html").read_text(encoding="utf-8")
    fixed = len(page) + sum(len(value) for value in fields.values()) + CLOSING_BYTES
    share = max(0, (config.max_bytes - fixed) // len(reports))
    panels = [_panel(report, config, share, number, len(reports) > 1) for number, report in enumerate(reports)]
    for name, value in {**fields, "PANELS": "".join(panels)}.items():
        page = page.replace(f"<!--{name}-->", value)
    return page


def _tabs(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    buttons = "".join(
        f'<button role="tab" id="tab-{i}" aria-controls="panel-{i}" data-tab="{i}" aria-selected="{str(i == 0).lower()}" '
        f'tabindex="{0 if i == 0 else -1}">{escape(name)}</button>'
        for i, name in enumerate(names)
    )
    return f'<div class="tabs" role="tablist" aria-label="Reports">{buttons}</div>'


def _panel(report: Report, config: PageConfig, share: int, number: int, is_tab: bool) -> str:
    """Draw one report: its words and charts first, then as many players as still fit."""
    before, after = _before(report), _after(report)
    values = len(page_data(report, [], complete=True))
    complete = values <= VALUES_SHARE * share
    left = share - len(before) - len(after) - (values if complete else 0)
    cards, shown = gallery(report, config, Budget(left), number)
    data = page_data(report, shown, complete=complete)
    role = f' role="tabpanel" aria-labelledby="tab-{number}"' if is_tab else ""
    hidden = "" if number == 0 else " hidden"
    return (
        f'<div{role} id="panel-{number}" data-panel="{number}"{hidden}>{before}{cards}{after}'
        f'<script type="application/json" data-report>{data}</script></div>'
    )


def _name(report: Report) -> str:
    return report.variants[0].base


def _subtitle(reports: Sequence[Report], config: PageConfig) -> str:
    bases = ", ".join(dict.fromkeys(_name(r) for r in reports))
    cases = " / ".join(dict.fromkeys(str(r.num_cases) for r in reports))
    parts = (config.subtitle, bases, f"{cases} cases")
    return escape(" · ".join(part for part in parts if part))


def _before(report: Report) -> str:
    """What stands above the clips: the leaderboard, the headline figures of each variant."""
    variants = report.tuned_variants()
    parts = [sections.leaderboard(report)] if len(variants) > 1 else []
    for variant in variants:
        title = escape(variant) if len(variants) > 1 else "Result"
        parts.append(f"<section class=result><h2>{title}</h2>{sections.headline(report, variant)}</section>")
    return "".join(parts)


def _after(report: Report) -> str:
    """What stands below the clips: checks, charts, tables, curves, notes."""
    variants = report.tuned_variants()
    if not variants:
        return sections.means_table(report) + runs.curves(report) + sections.notes(report)
    parts = []
    for variant in variants:
        if len(variants) > 1:
            parts.append(f'<h2 class="variant">{escape(variant)}</h2>')
        parts += [sections.panel(report, variant), sections.figures(report, variant), sections.table(report, variant)]
        parts.append(sections.slices(report, variant) if variant == variants[-1] else "")
    return "".join((*parts, runs.curves(report), sections.notes(report)))

"""Put the page together: one file, no outside requests."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from idgrpo.evaluate.config import PageConfig
from idgrpo.evaluate.document import Report
from idgrpo.evaluate.page import sections
from idgrpo.evaluate.page.gallery import gallery
from idgrpo.evaluate.page.media import Budget

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"
TEXT_RESERVE_BYTES = 150_000


def page_html(reports: Sequence[Report], config: PageConfig, names: Sequence[str] | None = None) -> str:
    """Render one or several reports (say, one per base) as one page with a tab each.

    The size stays under `config.max_bytes`: players are left out when they no longer fit.
    """
    names = list(names or [_name(report) for report in reports])
    share = max(0, config.max_bytes // len(reports) - TEXT_RESERVE_BYTES)
    bodies = [_body(report, config, Budget(share)) for report in reports]
    tabs = ""
    if len(reports) > 1:
        buttons = "".join(
            f'<button role="tab" data-tab="{i}" aria-selected="{str(i == 0).lower()}">{escape(n)}</button>'
            for i, n in enumerate(names)
        )
        tabs = f'<nav role="tablist">{buttons}</nav>'
    panels = "".join(
        f'<main role="tabpanel" data-panel="{i}"{"" if i == 0 else " hidden"}>{body}</main>'
        for i, body in enumerate(bodies)
    )
    folder = files("idgrpo.evaluate.page")
    fields = {
        "POLICY": POLICY,
        "TITLE": escape(config.title),
        "STYLE": folder.joinpath("style.css").read_text(encoding="utf-8"),
        "SCRIPT": folder.joinpath("page.js").read_text(encoding="utf-8"),
        "SUBTITLE": _subtitle(reports, config),
        "TABS": tabs,
        "PANELS": panels,
    }
    page = folder.joinpath("template.html").read_text(encoding="utf-8")
    for name, value in fields.items():
        page = page.replace(f"<!--{name}-->", value)
    return page


def _name(report: Report) -> str:
    return report.variants[0].base


def _subtitle(reports: Sequence[Report], config: PageConfig) -> str:
    bases = ", ".join(dict.fromkeys(_name(r) for r in reports))
    cases = " / ".join(dict.fromkeys(str(r.num_cases) for r in reports))
    parts = (config.subtitle, bases, f"{cases} cases")
    return escape(" · ".join(part for part in parts if part))


def _body(report: Report, config: PageConfig, budget: Budget) -> str:
    variants = report.tuned_variants()
    if not variants:
        return "".join(
            (
                gallery(report, config, budget),
                sections.means_table(report),
                sections.curves(report),
                sections.notes(report),
            )
        )
    last = variants[-1]
    parts = []
    for variant in variants:
        title = f"<h2 class=variant>{escape(variant)}</h2>" if len(variants) > 1 else ""
        parts.append(title + sections.headline(report, variant))
    parts.append(gallery(report, config, budget))
    for variant in variants:
        parts += [sections.panel(report, variant), sections.figures(report, variant), sections.table(report, variant)]
        parts.append(sections.slices(report, variant) if variant == last or len(variants) == 1 else "")
    return "".join((*parts, sections.curves(report), sections.notes(report)))

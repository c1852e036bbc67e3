"""Write a report: numbers, page, contact sheet, tables."""

from collections.abc import Sequence
from pathlib import Path

from idgrpo.evaluate.config import PageConfig
from idgrpo.evaluate.document import Report
from idgrpo.evaluate.page.html import page_html
from idgrpo.evaluate.sheet import report_sheet
from idgrpo.evaluate.tables import latex, markdown
from idgrpo.video.write import write_image


def write_report(report: Report, folder: Path, config: PageConfig) -> None:
    """Write report.json, report.html, contact_sheet.png, table.md and table.tex into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(report.model_dump_json(indent=1), encoding="utf-8")
    (folder / "table.md").write_text(markdown(report), encoding="utf-8")
    (folder / "table.tex").write_text(latex(report), encoding="utf-8")
    write_image(folder / "contact_sheet.png", report_sheet(report, config))
    write_page([report], folder / "report.html", config)


def write_page(reports: Sequence[Report], path: Path, config: PageConfig, names: Sequence[str] | None = None) -> None:
    """Write one self-contained page for one or several reports (a tab each)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page_html(reports, config, names), encoding="utf-8")

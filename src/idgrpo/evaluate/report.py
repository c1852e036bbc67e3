"""Write a report: numbers, page, contact sheet, tables. The same report written twice gives the same bytes."""

from collections.abc import Sequence
from pathlib import Path

import torch

from idgrpo.evaluate.config import PageConfig
from idgrpo.evaluate.document import Provenance, Report
from idgrpo.evaluate.page.gallery import choose, gain, paired_rows
from idgrpo.evaluate.page.html import page_html
from idgrpo.evaluate.tables import latex, markdown, number, samples_csv
from idgrpo.video.read import read_image, read_video
from idgrpo.video.sheet import contact_sheet
from idgrpo.video.write import write_image


def write_report(report: Report, folder: Path, config: PageConfig, made_by: Provenance | None = None) -> None:
    """Write report.json, report.html, contact_sheet.png, table.md, table.tex and samples.csv into a folder.

    report.json names videos and photos relative to the folder, so a store may be moved or copied. `made_by` is shown on the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(report.relative_to(folder).model_dump_json(indent=1), encoding="utf-8")
    (folder / "table.md").write_text(markdown(report), encoding="utf-8")
    (folder / "table.tex").write_text(latex(report), encoding="utf-8")
    write_image(folder / "contact_sheet.png", report_sheet(report, config))
    (folder / "samples.csv").write_text(samples_csv(report), encoding="utf-8")
    write_page([report], folder / "report.html", config, made_by=made_by)


def write_page(
    reports: Sequence[Report],
    path: Path,
    config: PageConfig,
    names: Sequence[str] | None = None,
    made_by: Provenance | None = None,
) -> None:
    """Write one self-contained page for one or several reports (a tab each)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page_html(reports, config, names, made_by), encoding="utf-8")


def report_sheet(report: Report, config: PageConfig) -> torch.Tensor:
    """Draw one row per case and variant: its references, then frames spread over the clip; uint8 [3, h, w].

    Cases are spread from the largest gain to the largest loss.
    """
    rows, captions = [], []
    for row in choose(paired_rows(report), lambda r: gain(report, r), config.sheet_cases):
        for variant in report.variants:
            sample = row[variant.name]
            portraits = [read_image(Path(images[0])) for images in sample.references]
            clip = read_video(Path(sample.video))
            index = torch.linspace(0, len(clip) - 1, min(config.sheet_frames, len(clip))).round().long()
            rows.append([*portraits, *clip[index]])
            shown = [f"{name} {number(sample.values.get(name))}" for name in report.pair()]
            captions.append(" · ".join((sample.case_id, variant.name, *shown)))
    return contact_sheet(rows, captions)

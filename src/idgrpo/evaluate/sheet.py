"""The contact sheet: references beside frames of base and tuned, for terminals and papers."""

from pathlib import Path

import torch

from idgrpo.evaluate.config import PageConfig
from idgrpo.evaluate.document import Report
from idgrpo.evaluate.page.gallery import choose, gain, paired_rows
from idgrpo.video.read import read_image, read_video
from idgrpo.video.sheet import contact_sheet


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
            value = sample.values.get(report.headline)
            shown = "–" if value is None else f"{value:.2f}"
            captions.append(f"{sample.case_id} · {variant.name} · {report.headline} {shown}")
    return contact_sheet(rows, captions)

"""A short animated picture of a report: numbered portraits, and the base beside the policy, playing. For a README or a talk."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from idgrpo.errors import UsageError
from idgrpo.evaluate.document import Report
from idgrpo.evaluate.page.gallery import CaseRow, gain, paired_rows
from idgrpo.evaluate.page.media import trimmed
from idgrpo.evaluate.tables import number
from idgrpo.video.probe import probe
from idgrpo.video.read import read_image, read_video
from idgrpo.video.sheet import GAP_PX, fitted, numbered, text_line

FORMATS = {".gif": "GIF", ".webp": "WEBP"}
SLOWER = 2  # clips of a second are over before anybody has looked


def chosen_cases(report: Report, count: int) -> list[tuple[int, CaseRow]]:
    """Choose cases evenly by their rank among the gains (of 3: a high one, the median, a low one), with that rank from 1."""
    ordered = sorted(paired_rows(report), key=lambda row: gain(report, row), reverse=True)
    places = dict.fromkeys(int((2 * i + 1) * len(ordered) / (2 * count)) for i in range(count))
    return [(place + 1, ordered[place]) for place in places]


def write_animation(report: Report, path: Path, *, num_cases: int = 3, cell_px: int = 128) -> int:
    """Write the picture as GIF or WebP by the file's ending; give its number of frames.

    One row a case: portraits, then a clip of each variant. Errors: UsageError for another ending or a report of one variant.
    """
    from PIL import Image

    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path.name}: an animated picture is .gif or .webp", fix="--out picture.webp")
    if not report.tuned_variants():
        raise UsageError("the report holds one variant: nothing to compare", fix="give a report of a base and a policy")
    total = len(paired_rows(report))
    rows = [_row(report, row, f"gain {rank} of {total}", cell_px) for rank, row in chosen_cases(report, num_cases)]
    length, width = max(len(row) for row in rows), max(row.shape[3] for row in rows)
    parts = []
    for row in rows:
        held = row[torch.arange(length).clamp(max=len(row) - 1)]  # the shorter clip waits on its last frame
        parts.append(F.pad(held, (0, width - row.shape[3], 0, GAP_PX), value=255))
    frames = torch.cat(parts, dim=2)
    images = [Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in frames]
    fps = probe(Path(report.samples[0].video)).fps or 16
    options = {"save_all": True, "append_images": images[1:], "duration": round(1000 * SLOWER / fps), "loop": 0}
    images[0].save(path, FORMATS[path.suffix.lower()], **options)
    return length


def _row(report: Report, row: CaseRow, rank: str, cell_px: int) -> Tensor:
    """Draw one case: uint8 [frame, 3, h, w], portraits under the prompt, clips under their variant's name and identity."""
    names = [variant.name for variant in report.variants]
    first = row[names[0]]
    portraits = [
        numbered(_square(fitted(trimmed(read_image(Path(p[0]))), cell_px), cell_px), n)
        for n, p in enumerate(first.references, 1)
    ]
    clips = [torch.stack([fitted(f, cell_px) for f in read_video(Path(row[name].video))]) for name in names]
    length = max(len(clip) for clip in clips)
    columns = [_under("", portrait[None], length) for portrait in portraits]
    titles = [f"{name}  {report.headline} {number(row[name].values.get(report.headline))}" for name in names]
    columns += [_under(title, clip, length) for title, clip in zip(titles, clips, strict=True)]
    body = torch.cat(columns, dim=3)
    change = f"{report.headline} {number(gain(report, row), signed=True)}, {rank}"
    heading = text_line(f"{first.prompt}   ({change})", body.shape[3], bold=True)
    return torch.cat([heading.expand(length, -1, -1, -1), body], dim=2)


def _square(picture: Tensor, side: int) -> Tensor:
    """Centre a picture on a white square, so that columns have one width; wide ones stay as they are."""
    spare = max(0, side - picture.shape[2])
    return F.pad(picture, (spare // 2, spare - spare // 2), value=255)


def _under(title: str, pictures: Sequence[Tensor] | Tensor, length: int) -> Tensor:
    """Put a title over pictures [frame, 3, h, w] and hold the last one up to `length` frames."""
    stack = pictures if isinstance(pictures, Tensor) else torch.stack(list(pictures))
    held = F.pad(stack[torch.arange(length).clamp(max=len(stack) - 1)], (0, GAP_PX), value=255)
    line = text_line(title, held.shape[3])
    return torch.cat([line.expand(length, -1, -1, -1), held], dim=2)

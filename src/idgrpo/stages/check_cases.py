"""Look at the reference photos of cases before hours are spent: what the finder sees in each, as a table and a contact sheet."""

import hashlib
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from idgrpo.errors import DataError, UsageError
from idgrpo.run.config import Config
from idgrpo.stages.cases import read_cases
from idgrpo.stages.settings import Settings, settle
from idgrpo.stages.source import Given, find
from idgrpo.stages.variants import TINY_SIDE_PX
from idgrpo.stages.work import Plan
from idgrpo.store.store import Store

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

    from idgrpo.people.boxes import Box
    from idgrpo.people.contract import Finder, Levels
    from idgrpo.people.portraits import PortraitLimits
    from idgrpo.records.models import Case

CELL_PX, COLUMNS, CAPTION_LINES, MAX_SHOWN = 224, 5, 3, 200
LIMITS, TINY_LIMITS = (64.0, 0.68), (8.0, 0.4)  # height and blur


class CheckConfig(Config):
    """Settings of `idgrpo cases --check`: who looks, and from where on a photo is no good reference.

    `finder` None is the embedded world's for photos of at most 64 px, else facenet; `options` are its own settings. `min_side_px`
    None is 64 and `max_blur` None is 0.68; in the embedded world, whose people are smooth and 20 px high, 8 and 0.4. A finder without levels counts as one of 0.9 (`same_person`) and 0.6 (`stranger`).
    """

    finder: str | None = None
    options: dict[str, bool | int | float | str | list[float]] = Field(default_factory=dict)
    min_side_px: float | None = Field(None, gt=0)
    max_blur: float | None = Field(None, gt=0, le=1)
    max_turn: float = Field(0.4, gt=0, le=1)
    second_share: float = Field(0.3, gt=0, le=1)


@dataclass
class PhotoRow:
    """One photo: whose it is, in how many cases, what was seen, what is wrong with it."""

    path: str
    person: str
    cases: int
    people: int = 0
    side_px: float | None = None
    blur: float | None = None
    turn: float | None = None
    problems: list[str] = field(default_factory=list)


def check_cases(
    given: Given = None, *, sheet: Path | None = None, settings: Settings = None, store: Store | None = None
) -> Plan:
    """Look at all photos of cases; the document's `exit_code` is 1 where something is wrong with one.

    Args:
        given: cases as for `cases`; None means the newest of the store.
        sheet: where the contact sheet goes, a PNG; None draws none.

    Errors: DataError for a file that holds no such cases; one bad photo is a row, never the end.
    """
    from idgrpo.people.contract import Levels, levels_of
    from idgrpo.people.load import load_finder
    from idgrpo.people.portraits import PortraitLimits, likeness_problems

    settled = settle(CheckConfig, settings)
    if sheet is not None and (sheet.suffix.lower() != ".png" or not sheet.resolve().parent.is_dir()):
        raise UsageError(f"--sheet {sheet}: a PNG in a folder that exists is needed", fix="--sheet check.png")
    found = read_cases(find(store or Store.default(), "cases", given))
    rows = _rows(found)
    name = settled.finder or _default_finder(rows)
    finder = load_finder(name, **settled.options)
    usual_px, usual_blur = TINY_LIMITS if name == "tiny" else LIMITS
    limits = PortraitLimits(
        settled.min_side_px or usual_px, settled.max_blur or usual_blur, settled.max_turn, settled.second_share
    )
    levels = levels_of(finder) or Levels(same_person=0.9, stranger=0.6)
    vectors, cells = _look(rows, finder, limits)
    people: dict[str, list[tuple[str, Any]]] = {}
    for row in rows.values():
        if row.path in vectors:
            people.setdefault(row.person, []).append((row.path, vectors[row.path]))
    together = [[reference.person for reference in case.references] for case in found]
    for path, problems in likeness_problems(people, together, levels).items():
        rows[path].problems += problems
    if sheet is not None:
        _draw(sheet, rows, cells)
    return _told(list(rows.values()), len(found), name, levels, sheet)


def _rows(found: "list[Case]") -> dict[str, PhotoRow]:
    """Give a row for each photo, in the order of the cases."""
    rows: dict[str, PhotoRow] = {}
    for case in found:
        for reference in case.references:
            for path in (*reference.images, *reference.second):
                rows.setdefault(path, PhotoRow(path, reference.person, 0)).cases += 1
    return rows


def _default_finder(rows: dict[str, PhotoRow]) -> str:
    from idgrpo.video.picture import read_picture

    for path in rows:
        try:
            return "tiny" if max(read_picture(path).image.size) <= TINY_SIDE_PX else "facenet"
        except DataError:
            continue
    return "facenet"


def _look(
    rows: dict[str, PhotoRow], finder: "Finder", limits: "PortraitLimits"
) -> "tuple[dict[str, np.ndarray], dict[str, Image]]":
    """Fill the rows in; give unit vectors and pictures for the sheet by path."""
    from idgrpo.people.portraits import look_at, problems_of
    from idgrpo.run.progress import progress
    from idgrpo.video.read import read_image

    vectors: dict[str, np.ndarray] = {}
    cells: dict[str, Image] = {}
    owners: dict[str, PhotoRow] = {}
    with progress(len(rows), "looking at photos", "photo") as bar:
        for path, row in rows.items():
            try:
                image = read_image(path)
            except DataError as error:
                row.problems.append(error.message.replace(f"{path}: ", ""))
            else:
                seen = look_at(image, finder)
                row.people, row.blur, row.turn = len(seen.boxes), seen.blur, seen.turn
                row.side_px = seen.side_px if seen.boxes else None
                row.problems += problems_of(seen, limits)
                content = hashlib.sha256(str(tuple(image.shape)).encode() + image.numpy().tobytes()).hexdigest()
                first = owners.setdefault(content, row)
                if first.person != row.person:
                    for one, other in ((row, first), (first, row)):
                        one.problems.append(f"the same picture as {Path(other.path).name} of {other.person}")
                elif seen.embedding is not None:
                    vectors[path] = seen.embedding
                if len(cells) < MAX_SHOWN or row.problems:
                    cells[path] = _cell(image, seen.boxes)
            bar.advance()
    return vectors, cells


def _cell(image: "Tensor", boxes: "Sequence[Box]") -> "Image":
    """Shrink or enlarge a photo to a cell, and frame everybody who was found: the largest person green, others yellow."""
    from PIL import Image, ImageDraw

    photo = Image.fromarray(image.permute(1, 2, 0).numpy())
    scale = CELL_PX / max(photo.size)
    size = tuple(max(1, round(side * scale)) for side in photo.size)
    cell = photo.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)  # type: ignore[arg-type]
    for number, box in enumerate(boxes):
        corners = [round(value * scale) for value in box]
        ImageDraw.Draw(cell).rectangle(corners, outline=(40, 220, 80) if number == 0 else (230, 180, 20), width=2)
    return cell


def _draw(sheet: Path, rows: dict[str, PhotoRow], cells: "dict[str, Image]") -> None:
    """Draw the photos, those with problems first, each under its person and what is wrong."""
    from PIL import Image, ImageDraw, ImageFont

    order = sorted(rows.values(), key=lambda row: not row.problems)[:MAX_SHOWN]
    font, line_px, gap = ImageFont.load_default(12), 15, 8
    height = CELL_PX + CAPTION_LINES * line_px + gap
    across = min(COLUMNS, len(order))
    page = Image.new("RGB", (across * (CELL_PX + gap), -(-len(order) // COLUMNS) * height), "white")
    pen = ImageDraw.Draw(page)
    for number, row in enumerate(order):
        left, top = number % COLUMNS * (CELL_PX + gap), number // COLUMNS * height
        caption = textwrap.wrap(f"{row.person}: {'; '.join(row.problems) or 'good'}", 36)[:CAPTION_LINES]
        pen.text((left + 2, top), "\n".join(caption), fill=(190, 20, 20) if row.problems else (40, 40, 40), font=font)
        if row.path in cells:
            page.paste(cells[row.path], (left, top + CAPTION_LINES * line_px))
    page.save(sheet)


def _told(rows: list[PhotoRow], num_cases: int, finder: str, levels: "Levels", sheet: Path | None) -> Plan:
    """Tell the table and what is wrong."""
    bad = [row for row in rows if row.problems]
    cells: list[tuple[str, ...]] = [("person", "photo", "cases", "people", "height", "blur", "turn", "")]
    for row in rows:
        numbers = [f"{value:.2f}" if value is not None else "-" for value in (row.blur, row.turn)]
        height = "-" if row.side_px is None else f"{row.side_px:.0f} px"
        told = "; ".join(row.problems) or "good"
        cells.append((row.person, Path(row.path).name, str(row.cases), str(row.people), height, *numbers, told))
    widths = [max(len(line[k]) for line in cells) for k in range(7)]
    lines = ["  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[7]]).rstrip() for line in cells]  # fmt: skip
    verdict = f"{len(bad)} of {len(rows)} photos have problems" if bad else f"all {len(rows)} photos are good"
    lines.append(f"{verdict} ({num_cases} cases, finder {finder}, same person from {levels.same_person:g}, strangers to {levels.stranger:g})")  # fmt: skip
    if sheet is not None:
        lines.append(f"contact sheet: {sheet}")
    document = {
        "cases": num_cases, "photos": len(rows), "bad": len(bad), "finder": finder, "levels": asdict(levels),
        "sheet": None if sheet is None else str(sheet), "rows": [asdict(row) for row in rows], "exit_code": 1 if bad else 0,
    }  # fmt: skip
    return Plan(lines, document)

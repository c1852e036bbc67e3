"""Preferences in the formats of others: TRL and Hugging Face datasets (JSON Lines), and VideoAlign's CSV.

Both directions. What a format has no place for travels in one more column, `idgrpo`, a string of JSON that other readers
leave alone: with it our own export comes back as it was, without it (somebody else's file) defaults stand in.
"""

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, Json, ValidationError, field_serializer, field_validator

from idgrpo.errors import DataError
from idgrpo.records.atomic import replacing
from idgrpo.records.jsonl import LineErrors, csv_rows, explain, read_records, write_records
from idgrpo.records.models import Fates, Preference, Reference
from idgrpo.records.record import AnyJson, Record

Source = Literal["human", "synthetic", "judge"]
FORMATS = ("jsonl", "trl", "videoalign")
Measure = Callable[[str], tuple[float, int]]  # video file -> (fps, frames)
WORDS = {"a": "A", "b": "B", "tie": "same", "both_bad": "same"}
SIDES = ("fps_A", "num_frames_A", "fps_B", "num_frames_B")


class Carried(Record):
    """The fields of a preference that the other format lacks."""

    pair_id: str
    case_id: str
    references: list[Reference]
    dimension: str
    origin: dict[str, AnyJson] = {}
    label: Literal["a", "b", "tie", "both_bad"]
    votes: dict[str, int] = {}
    source: Source
    distortion: str | None = None
    strength: float | None = Field(default=None, ge=0, le=1)
    split: Literal["train", "validation", "test"] | None = None
    people: Fates | None = None


class Row(Record):
    """A line of another format; columns we do not know are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    prompt: str
    idgrpo: Json[Carried] | None = None

    @field_serializer("idgrpo")
    def _as_text(self, carried: Carried | None) -> str | None:
        return None if carried is None else carried.model_dump_json(exclude_defaults=True)


class TrlRow(Row):
    """A preference as TRL's trainers name its columns; chosen and rejected are video files."""

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("chosen", "rejected", "images")

    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    images: list[str] = []

    @field_validator("prompt", mode="before")
    @classmethod
    def _text_of_messages(cls, prompt: Any) -> Any:
        """Take the text of a conversation: messages whose content is a string or a list of parts."""
        if not isinstance(prompt, list):
            return prompt
        contents = [message.get("content") for message in prompt if isinstance(message, dict)]
        parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
        return "\n".join(text for text in texts if isinstance(text, str))

    @field_validator("chosen", "rejected", mode="before")
    @classmethod
    def _file_of_video(cls, video: Any) -> Any:
        """Take the file of a Hugging Face video cell, {"path": .., "bytes": null}."""
        return video["path"] if isinstance(video, dict) and video.get("path") else video


class VideoAlignRow(Row):
    """A line of VideoAlign's CSV; `label` comes from the column of the dimension asked for."""

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("path_A", "path_B", "ref_paths")

    path_A: str = Field(min_length=1)
    path_B: str = Field(min_length=1)
    label: Literal["A", "B", "same"]
    ref_paths: list[str] = []

    @field_validator("ref_paths", mode="before")
    @classmethod
    def _split(cls, paths: Any) -> Any:
        return [part.strip() for part in paths.split(";") if part.strip()] if isinstance(paths, str) else paths


def write_trl(path: Path | str, preferences: Iterable[Preference]) -> dict[str, int]:
    """Write decided preferences as JSON Lines with prompt, chosen, rejected (and images, idgrpo).

    The format has no ties: `tie` and `both_bad` are left out. Returns how many were written and left out, by label.
    """
    left_out: dict[str, int] = {}

    def rows() -> Iterator[TrlRow]:
        for item in preferences:
            if item.label not in ("a", "b"):
                left_out[item.label] = left_out.get(item.label, 0) + 1
                continue
            videos = (item.video_a, item.video_b) if item.label == "a" else (item.video_b, item.video_a)
            images = [image for reference in item.references for image in reference.images]
            yield TrlRow.model_construct(
                idgrpo=_carried(item), prompt=item.prompt, chosen=videos[0], rejected=videos[1], images=images
            )

    return {"written": write_records(path, rows()), **left_out}


def read_trl(
    path: Path | str, *, source: Source = "human", dimension: str = "identity", check_files: bool = True
) -> Iterator[Preference]:
    """Read preferences from JSON Lines with prompt, chosen, rejected.

    Without our column `idgrpo` every image of `images` is one person, which clip is `a` is a draw from the line's
    contents, and `source` and `dimension` are as told. Errors: DataError with file, line and field, also for a file
    that is not there unless `check_files` is off.
    """
    folder = Path(path).parent
    for row in read_records(path, TrlRow, check=_Checker(check_files)):
        label = "ab"[_digest(folder, row.prompt, sorted((row.chosen, row.rejected)))[0] % 2]
        if row.idgrpo is not None and row.idgrpo.label in ("a", "b"):
            label = row.idgrpo.label
        videos = (row.chosen, row.rejected) if label == "a" else (row.rejected, row.chosen)
        yield _preference(folder, row, videos, label, row.images, source, dimension)


def write_videoalign(path: Path | str, preferences: Iterable[Preference], measure: Measure) -> dict[str, int]:
    """Write preferences as VideoAlign's CSV; the column with A, B or same is named after their dimension.

    `measure` gives fps and frames of a clip. `both_bad` becomes `same` (the column idgrpo keeps the difference).
    Returns how many were written. Errors: DataError for several dimensions, which the format cannot keep apart.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    num, dimension = 0, None
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)  # ends lines with CR LF, so that a lone CR inside a text is quoted too
        for item in preferences:
            if dimension is None:
                dimension = item.dimension
                writer.writerow(["path_A", "path_B", "prompt", dimension, *SIDES, "ref_paths", "idgrpo"])
            if item.dimension != dimension:
                raise DataError(
                    f"preferences of several dimensions ({dimension}, {item.dimension}) do not fit into one file",
                    fix="export one at a time with --dimension",
                )
            writer.writerow(_videoalign_cells(item, path.parent, measure))
            num += 1
    return {"written": num}


def _videoalign_cells(item: Preference, folder: Path, measure: Measure) -> list[Any]:
    facts = (*measure(item.video_a), *measure(item.video_b))
    here = item.relative_to(folder)
    images = ";".join(image for reference in here.references for image in reference.images)
    carried = _carried(here).model_dump_json(exclude_defaults=True)
    return [here.video_a, here.video_b, here.prompt, WORDS[here.label], *facts, images, carried]


def read_videoalign(
    path: Path | str, *, source: Source = "human", dimension: str = "identity", check_files: bool = True
) -> Iterator[Preference]:
    """Read preferences from VideoAlign's CSV: `dimension` names the column with A, B or same.

    Without our column `idgrpo` every path of `ref_paths` is one person, and there may be none. Errors: DataError with
    file, line and column, also for a file that is not there unless `check_files` is off.
    """
    path = Path(path)
    errors, check = LineErrors(path), _Checker(check_files)
    rows = csv_rows(path, errors)
    _, header = next(rows, (1, []))
    missing = sorted({"path_A", "path_B", "prompt", dimension} - set(header))
    if missing:
        raise DataError(
            f"{path}:1: column {', '.join(missing)} is missing (found: {', '.join(header) or 'none'})",
            fix="name the column of labels with --dimension, such as VQ, MQ or TA",
        )
    for line, cells in rows:
        if len(cells) != len(header):
            errors.add(line, f"{len(cells)} columns instead of {len(header)}; put text with commas in double quotes")
            continue
        row = _parse(dict(zip(header, cells, strict=True)), dimension)
        if isinstance(row, str):
            errors.add(line, row)
            continue
        row = row.resolved(path.parent)
        if problem := check(row, line):
            errors.add(line, problem)
        elif not errors.found:
            videos = (row.path_A, row.path_B)
            yield _preference(path.parent, row, videos, _label(row), row.ref_paths, source, dimension)
    errors.raise_any()


def _parse(cells: dict[str, str], dimension: str) -> VideoAlignRow | str:
    try:
        return VideoAlignRow.model_validate({**cells, "label": cells[dimension], "idgrpo": cells.get("idgrpo") or None})
    except ValidationError as error:
        problems = "; ".join(explain(detail, VideoAlignRow) for detail in error.errors())
        return problems.replace("field 'label'", f"field '{dimension}'")


class _Checker:
    """Says what is wrong with a row beyond its form: a file that is not there, a pair that stood before."""

    def __init__(self, check_files: bool):
        self.check_files = check_files
        self.lines: dict[str, int] = {}

    def __call__(self, row: TrlRow | VideoAlignRow, line: int) -> str | None:
        for name in row.PATH_FIELDS if self.check_files else ():
            value = getattr(row, name)
            for file in value if isinstance(value, list) else [value]:
                if not os.path.isfile(file):
                    return f"field '{name}': there is no file {file}"
        videos = sorted(getattr(row, name) for name in row.PATH_FIELDS[:2])
        key = row.idgrpo.pair_id if row.idgrpo is not None else "\x1f".join((row.prompt, *videos))
        first = self.lines.setdefault(key, line)
        return f"the same pair stands already in line {first}" if first != line else None


def _label(row: VideoAlignRow) -> str:
    if row.idgrpo is not None and WORDS[row.idgrpo.label] == row.label:
        return row.idgrpo.label
    return {"A": "a", "B": "b", "same": "tie"}[row.label]


def _carried(item: Preference) -> Carried:
    return Carried(**{name: getattr(item, name) for name in Carried.model_fields})


def _preference(
    folder: Path, row: Row, videos: tuple[str, str], label: str, images: list[str], source: Source, dimension: str
) -> Preference:
    fields: dict[str, Any] = {
        "prompt": row.prompt, "video_a": videos[0], "video_b": videos[1], "label": label
    }  # fmt: skip
    if row.idgrpo is not None:
        return Preference(**{name: getattr(row.idgrpo, name) for name in Carried.model_fields} | fields)
    case = _digest(folder, fields["prompt"], images).hex()[:20]
    return Preference(
        pair_id=_digest(folder, f"{case} {dimension}", sorted(videos)).hex()[:20],
        case_id=case,
        references=[Reference(person=f"person-{k}", images=[image]) for k, image in enumerate(images, start=1)],
        dimension=dimension,
        source=source,
        origin={"by": "import"},
        **fields,
    )


def _digest(folder: Path, text: str, files: list[str]) -> bytes:
    """Hash a text and files, named as seen from `folder`, so that another place gives the same."""
    names = [os.path.relpath(file, folder) for file in files]
    return hashlib.sha256("\x1f".join((text, *names)).encode()).digest()

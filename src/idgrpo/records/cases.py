"""Layouts in which people keep cases: CSV, a folder for each person, OpenS2V-Eval, MultiHuman-Testbench, JSON Lines.

Where a layout names no people, a photo names its person by its content (`person_of_photo`).
"""

import difflib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from idgrpo.errors import DataError
from idgrpo.formats import images_in
from idgrpo.records.document import read_json
from idgrpo.records.jsonl import MAX_ERRORS, LineErrors, csv_rows, explain, read_records, text_lines, wrong_path
from idgrpo.records.models import MAX_SEED, Case, CaseId, Reference, id_problem
from idgrpo.records.photos import CaseCheck, person_of_photo, photo_digest
from idgrpo.records.record import Record

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Record)
COLUMNS = ("ref_paths", "prompt", "id", "people", "seed")
PROMPT_FILES = ("prompts.txt", "prompts.jsonl")
# OpenS2V-Eval labels every picture; all other labels are things, animals and places.
PEOPLE_LABELS = {"man", "woman", "person", "human", "boy", "girl", "child", "baby", "face"}
KNOWN_JSON = "OpenS2V-Eval (*_Eval.json), MultiHuman-Testbench (multihuman_metadata.json), or a list of cases"


def read_cases(path: Path | str) -> Iterator[Case]:
    """Read cases from what a path leads to: JSON Lines, CSV, a published benchmark's JSON, or a folder of people.

    One id is one case, one photo is one person, in all layouts.

    Raises DataError as `read_records` does; a CSV row is named by the line it begins in, an entry of JSON by its key.
    """
    path = Path(path)
    if path.is_dir():
        return read_case_folder(path)
    readers = {".csv": read_csv_cases, ".json": read_json_cases}
    return readers.get(path.suffix.lower(), read_jsonl_cases)(path)


def read_jsonl_cases(path: Path) -> Iterator[Case]:
    """Read cases from JSON Lines, a record a line."""
    return read_records(path, Case, check=CaseCheck())


def _checked(errors: LineErrors, found: Iterable[tuple[int | str, Case | str]]) -> Iterator[Case]:
    """Give the cases of (line, case or what is wrong with it); all that is wrong is raised together at the end."""
    check = CaseCheck()
    for line, case in found:
        problem = case if isinstance(case, str) else check(case, line)
        if problem is not None:
            errors.add(line, problem)
        elif isinstance(case, Case) and not errors.found:
            yield case
    errors.raise_any()


def read_csv_cases(path: Path) -> Iterator[Case]:
    """Read cases from CSV with `ref_paths` (separated by ;) and `prompt`.

    `people` names them (separated by ; one for each path); without it a photo is its person. `id` names the case;
    without it file name and row do. `seed` is the case's seed. Other columns are left alone.
    """
    errors = LineErrors(path)
    rows = csv_rows(path, errors)
    _, header = next(rows, (1, []))
    header = [name.strip() for name in header]
    _check_header(path, header)
    yield from _checked(errors, ((line, _case_of_row(path, n, header, row)) for n, (line, row) in enumerate(rows)))


def _check_header(path: Path, header: list[str]) -> None:
    missing = {"ref_paths", "prompt"} - set(header)
    if missing:
        raise DataError(
            f"{path}:1: column {', '.join(sorted(missing))} is missing (found: {', '.join(header) or 'none'})"
        )
    for name in header:
        if name in COLUMNS and header.count(name) > 1:
            raise DataError(f"{path}:1: column {name} stands twice")
        near = difflib.get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.8)
        if name not in COLUMNS and near and near[0] not in header:
            raise DataError(f"{path}:1: column {name}: did you mean {near[0]}?", fix="rename it, or take it out")


def _case_of_row(path: Path, index: int, header: list[str], row: list[str]) -> Case | str:
    """Make a case of a row, or say what is wrong with it."""
    if len(row) != len(header):
        return f"{len(row)} columns instead of {len(header)}; put text with commas in double quotes"
    cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    images = _parts(cells["ref_paths"])
    empty = [name for name, value in (("ref_paths", images), ("prompt", cells["prompt"])) if not value]
    if empty:
        return f"column {' and '.join(empty)} must not be empty"
    if any("\0" in image for image in images):
        return "column ref_paths: not the name of a file"
    name = cells["id"] if "id" in cells else _numbered(path.stem, index)
    if problem := id_problem(name):
        return f"column id: {problem}"
    seed = cells.get("seed", "")
    if seed and not (seed.isascii() and seed.isdigit() and len(seed) < 20 and int(seed) <= MAX_SEED):
        return f"column seed: {seed[:40]!r} is no whole number from 0 to 2^63 - 1"
    people = [part.strip() for part in cells["people"].split(";")] if cells.get("people") else None
    if people is not None and (len(people) != len(images) or not all(people)):
        return (
            f"column people: {len(images)} paths need {len(images)} names separated by ;, not {cells['people'][:60]!r}"
        )
    return _case(path.parent, name, cells["prompt"], images, people, int(seed) if seed else None)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _numbered(name: str, index: int) -> str:
    own = f"{name}-{index:04d}"
    return own if id_problem(own) is None else f"case-{index:04d}"


def _case(
    folder: Path, name: str, prompt: str, images: list[str], people: list[str] | None = None, seed: int | None = None
) -> Case | str:
    """Make a case whose people have a photo each; two equal photos of people without names are one person twice."""
    paths = [os.path.normpath(os.path.join(os.path.abspath(folder), image)) for image in images]
    try:
        names = people or [person_of_photo(path) for path in paths]
    except DataError as error:
        return error.message
    for index, person in enumerate(names):
        if people is None and person in names[:index]:
            return f"{images[names.index(person)]} and {images[index]} are the same photo: each reference is another person"
    references = [Reference(person=person, images=[path]) for person, path in zip(names, paths, strict=True)]
    return Case(id=name, prompt=prompt, references=references, seed=seed)


class FolderPrompt(Record):
    """A line of prompts.jsonl in a folder of people; without `people` everybody of the folder is in the case."""

    prompt: str = Field(min_length=1)
    people: list[str] | None = Field(default=None, min_length=1)
    id: CaseId | None = None
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)


def read_case_folder(folder: Path | str) -> Iterator[Case]:
    """Read cases from a folder that holds a sub-folder of photos for each person, and prompts.txt or prompts.jsonl.

    The sub-folder's name is the person. Its first photo by name is what generators see, the others are second photos,
    which only measures see. Each line of prompts.txt is a case with everybody; a line of prompts.jsonl may choose
    `people`, and have an `id` and a `seed`. A folder with cases.jsonl, such as an artifact, is read by that file.
    """
    folder = Path(folder)
    if (folder / "cases.jsonl").is_file():
        yield from read_jsonl_cases(folder / "cases.jsonl")
        return
    found = [folder / name for name in PROMPT_FILES if (folder / name).is_file()]
    if len(found) != 1:
        raise DataError(
            f"{folder}: {'both' if found else 'neither'} {' and '.join(PROMPT_FILES)}{'' if found else ' there'}",
            fix="a folder of cases holds one sub-folder of photos for each person, and one of the two files",
        )
    people, (file,) = _people_in(folder), found
    everybody = list(people.values())

    def cases() -> Iterator[tuple[int, Case]]:
        for index, (line, prompt) in enumerate(_prompts(file, people)):
            chosen = [people[name] for name in prompt.people] if prompt.people else everybody
            name = prompt.id or _numbered(folder.resolve().name, index)
            yield line, Case(id=name, prompt=prompt.prompt, references=chosen, seed=prompt.seed)

    yield from _checked(LineErrors(file), cases())


def _people_in(folder: Path) -> dict[str, Reference]:
    people = {}
    for own in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        photos = [str(photo.absolute()) for photo in images_in(own)]
        if not photos:
            raise DataError(f"{own}: no photos in it", fix="put the person's photos there, or move the folder away")
        first = photo_digest(photos[0])
        second = [photo for photo in photos[1:] if photo_digest(photo) != first]  # a copy is no second photo
        people[own.name] = Reference(person=own.name, images=photos[:1], second=second)
    if not people:
        raise DataError(f"{folder}: no people in it", fix="put the photos of each person into a sub-folder")
    return people


def _prompts(file: Path, people: dict[str, Reference]) -> Iterator[tuple[int, FolderPrompt]]:
    if file.suffix == ".txt":
        yield from ((line, FolderPrompt(prompt=text)) for line, text in text_lines(file))
        return
    lines: list[int] = []

    def check(prompt: FolderPrompt, line: int) -> str | None:
        lines.append(line)
        unknown = next((name for name in prompt.people or () if name not in people), None)
        if unknown is None:
            return None
        near = difflib.get_close_matches(unknown, people, n=1)
        return f"field 'people': nobody is called {unknown!r}" + (f" (did you mean {near[0]!r}?)" if near else "")

    for prompt in read_records(file, FolderPrompt, check=check):
        yield lines[-1], prompt


class _Entry(Record):
    model_config = ConfigDict(extra="ignore")


class OpenS2VEntry(_Entry):
    """An entry of OpenS2V-Eval: pictures of people, things and places, a label for each, and a prompt."""

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("img_paths",)

    prompt: str = Field(min_length=1)
    img_paths: list[str] = Field(min_length=1)
    class_label: list[str]


class MultiHumanEntry(_Entry):
    """An entry of MultiHuman-Testbench: a photo for each person, and a prompt."""

    PATH_FIELDS: ClassVar[tuple[str, ...]] = ("people",)

    prompt: str = Field(min_length=1)
    people: list[str] = Field(min_length=1)


def read_json_cases(path: Path) -> Iterator[Case]:
    """Read cases from a JSON document: OpenS2V-Eval, MultiHuman-Testbench, or a list of case records.

    A file that holds JSON Lines under this ending is read as such.
    """
    lines = (text for _, text in text_lines(path))
    first, second = next(lines, ""), next(lines, "")
    if first.startswith("{") and first.endswith("}") and second.startswith("{"):
        return read_jsonl_cases(path)
    document = read_json(path, Any)
    if isinstance(document, dict) and all(isinstance(v, dict) and "img_paths" in v for v in document.values()):
        return read_opens2v(path)
    if isinstance(document, list) and all(isinstance(v, dict) for v in document):
        if all("people" in entry for entry in document):
            return read_multihuman(path)
        if all("references" in entry for entry in document):
            return _case_list(path, document)
    raise DataError(f"{path}: no known layout of cases", fix=f"known are {KNOWN_JSON}; JSON Lines end in .jsonl")


def _case_list(path: Path, document: list[Any]) -> Iterator[Case]:
    entries = _entries(((str(index), entry) for index, entry in enumerate(document)), Case)
    folder = path.parent
    yield from _checked(
        LineErrors(path), ((name, c if isinstance(c, str) else c.resolved(folder)) for _, name, c in entries)
    )


def read_opens2v(path: Path | str) -> Iterator[Case]:
    """Read OpenS2V-Eval's cases with people, from its Open-Domain_Eval.json, Human-Domain_Eval.json or Single-Domain_Eval.json.

    Only pictures labelled as people become references, in their order; entries without any are left out. Both are
    counted in a warning. The key of an entry is the case id; paths are relative to the file.
    """
    path = Path(path)
    left_out: Counter[str] = Counter()

    def cases() -> Iterator[tuple[str, Case | str]]:
        for key, name, entry in _entries(read_json(path, dict[str, Any]).items(), OpenS2VEntry):
            if isinstance(entry, str):
                yield name, entry
                continue
            labels = [label.strip().lower() in PEOPLE_LABELS for label in entry.class_label]
            if len(labels) != len(entry.img_paths):
                yield name, f"field 'class_label': {len(labels)} labels for {len(entry.img_paths)} pictures"
            elif not any(labels):
                left_out["entries"] += 1
            else:
                left_out["pictures"] += labels.count(False)
                images = [image for image, is_person in zip(entry.img_paths, labels, strict=True) if is_person]
                yield name, id_problem(key) or _case(path.parent, key, entry.prompt, images)

    num = 0
    for num, case in enumerate(_checked(LineErrors(path), cases()), start=1):  # noqa: B007
        yield case
    if not num:
        raise DataError(f"{path}: none of its {left_out['entries']} entries shows people", fix="take another file")
    if left_out.total():
        log.warning(
            "%s: %d entries without people are left out; %d pictures of things and places are no references",
            path, left_out["entries"], left_out["pictures"],
        )  # fmt: skip


def read_multihuman(path: Path | str) -> Iterator[Case]:
    """Read MultiHuman-Testbench's cases from its multihuman_metadata.json, numbered as there (`multihuman-0007`).

    Its paths ("data/faces/..") are relative to the folder above the file's, as published, or to the file's own.
    """
    path = Path(path)
    own = path.absolute().parent

    def cases() -> Iterator[tuple[str, Case | str]]:
        entries = ((str(index), entry) for index, entry in enumerate(read_json(path, list[Any])))
        for key, name, entry in _entries(entries, MultiHumanEntry):
            if isinstance(entry, str):
                yield name, entry
                continue
            folder = own.parent if Path(entry.people[0]).parts[:1] == (own.name,) else own
            yield name, _case(folder, f"multihuman-{int(key):04d}", entry.prompt, entry.people)

    yield from _checked(LineErrors(path), cases())


def _entries(items: Iterable[tuple[str, Any]], model: type[R]) -> Iterator[tuple[str, str, R | str]]:
    """Give key, name for messages, and record of each entry of a JSON document, or what is wrong with it."""
    for key, value in items:
        name = f"entry {key!r}"
        try:
            record = model.model_validate(value)
        except ValidationError as error:
            yield key, name, "; ".join(explain(detail, model) for detail in error.errors()[:MAX_ERRORS])
        else:
            wrong = wrong_path(record)
            yield key, name, wrong if wrong else record

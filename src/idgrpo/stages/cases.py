"""The `cases` stage: who should appear in a video and what they do; of the embedded world, or of one's own photos."""

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from idgrpo.errors import DataError, UsageError
from idgrpo.stages.source import Given, Source, find
from idgrpo.stages.work import Plan, Run, Stage, Work
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.records.models import Case

NUM_CASES = 8


@Stage
def cases(
    given: Given = None,
    *,
    num: int = NUM_CASES,
    seed: int = 0,
    split: str = "train",
    num_people: int = 2,
    name: str | None = None,
    store: Store | None = None,
    force: bool = False,
) -> Work:
    """Publish cases: those of a file or folder with copies of their photos, or fresh ones of the embedded world.

    Args:
        given: `.jsonl`, `.csv`, or a folder (see `read_cases`); None draws `num` cases of the embedded world.
        num, seed, split, num_people: of the embedded world; split "train" takes people that models may have seen, any
            other name people nobody has seen.

    Errors: DataError for a file that holds no such cases, or a photo that is not there.
    """
    store = store or Store.default()
    if given is None:
        return _of_world(store, name or "tinyworld", num, seed, split, num_people, force=force)
    source = find(store, "cases", given)
    found, name = read_cases(source), name or source.name

    def copy(run: Run) -> None:
        run.out.metrics["num_cases"] = _copy(found, run.out.path)

    plan = partial(_plan, store, name, len(found), source.ref)
    return Work(store, "cases", "cases", name, {"cases": source}, {}, copy, plan, force=force)


def _of_world(store: Store, name: str, num: int, seed: int, split: str, num_people: int, *, force: bool) -> Work:
    if num < 1 or not 1 <= num_people <= 4 or seed < 0:
        raise UsageError(
            f"{num} cases of {num_people} people from seed {seed} cannot be drawn",
            fix="1 case or more, 1 to 4 people, a seed from 0",
        )
    config: dict[str, object] = {"world": "tinyworld", "num": num, "seed": seed, "split": split}
    if num_people != 2:
        config["num_people"] = num_people

    def draw(run: Run) -> None:
        from idgrpo.tinyworld.cases import make_cases, write_cases

        run.out.metrics["num_cases"] = len(write_cases(run.out.path, make_cases(num, seed, split, num_people)))

    return Work(
        store,
        "cases",
        "cases",
        name,
        {},
        config,
        draw,
        partial(_plan, store, name, num, "the embedded world"),
        force=force,
    )


def read_cases(source: Source) -> "list[Case]":
    """Read the cases of a source, at least one. Raises DataError naming file, line and field."""
    from idgrpo.records.cases import read_cases as read

    found = list(read(source.records))
    if not found:
        raise DataError(f"no cases in {source.records}", fix="one line of JSON each: id, prompt, references")
    return found


def of_world(store: Store, seed: int = 0) -> Artifact:
    """Give a few cases of the embedded world, made now if need be: what `sample --base tiny-phantom` starts from."""
    return cases(seed=seed, store=store)


def _plan(store: Store, name: str, num: int, origin: str) -> Plan:
    summary = [f"reads   {origin}: {num} cases", f"writes  cases/{name} in {store.root}"]
    return Plan(summary, {"dry_run": True, "would_read": origin, "would_write": f"cases/{name}", "num_cases": num})


def _copy(found: "list[Case]", folder: Path) -> int:
    """Write cases with copies of their photos, named by content: a photo that many cases show lies there once."""
    from idgrpo.records.digest import file_digest
    from idgrpo.records.jsonl import write_records

    names: dict[str, str] = {}

    def kept(path: str) -> str:
        if path not in names:
            if not Path(path).is_file():
                raise DataError(
                    f"{path}: there is no such photo", fix="mend the path; relative ones start at the file's folder"
                )
            target = folder / "photos" / f"{file_digest(Path(path))[:16]}{Path(path).suffix.lower()}"
            target.parent.mkdir(exist_ok=True)
            if not target.exists():
                shutil.copyfile(path, target)
            names[path] = str(target)
        return names[path]

    return write_records(folder / "cases.jsonl", [case.with_paths(kept) for case in found])


def result(artifact: Artifact) -> Plan:
    """Tell how many cases and people there are."""
    from idgrpo.records.cases import read_cases as read

    found = list(read(artifact.file("cases.jsonl")))
    people = {reference.person for case in found for reference in case.references}
    document = {
        "artifact": artifact.ref,
        "digest": artifact.digest,
        "path": str(artifact.path),
        "num_cases": len(found),
        "num_people": len(people),
    }
    return Plan([f"{len(found)} cases of {len(people)} people: {artifact.ref}", f"folder: {artifact.path}"], document)

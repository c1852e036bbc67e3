"""`study`: every cell of the grid with every seed, in as many processes as asked, then one report artifact."""

import json
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from idgrpo.errors import StoppedError, UsageError, silence_libraries
from idgrpo.evaluate.document import Report
from idgrpo.run.config import load_config
from idgrpo.run.signals import StopSignal, stop_with_parent
from idgrpo.stages import Artifact, Store
from idgrpo.stages.source import find
from idgrpo.stages.work import Plan, Run, Work
from idgrpo.study.cell import CellOutcome, run_cell
from idgrpo.study.check import check_study
from idgrpo.study.config import Cell, StudyConfig
from idgrpo.study.table import Table

Job = tuple[Cell, int]
POLL_S = 1.0


def read_study(file: Path, base: str | None = None) -> StudyConfig:
    """Read a study file; base: tuned in place of the file's. Raises UsageError with all that is wrong in it."""
    study = load_config(
        StudyConfig, file, fix="a study file has `base`, `steps`, `axes`, `seeds`: see those in examples/studies/"
    )
    return study if base is None else study.model_copy(update={"base": base})


def run_study(
    study: StudyConfig, name: str, *, store: Store | None = None, nproc: int = 1, force: bool = False
) -> Artifact:
    """Run all cells with all seeds and publish the table; what an earlier call finished is not done again.

    Args:
        name: of the report, and the beginning of the names of everything that the study makes.
        nproc: cells that are worked on at once, in processes of one thread each; what cells share is made once.
        force: write the table anew; cells that are there are kept.

    Errors: StoppedError after a stop (run it again); what a stage raises, with cell, seed and step in front.
    """
    store = store or Store.default()
    cells, lacks = check_study(study, name, store)
    for what, error in lacks.items():
        error.message = f"study, {what}"
        raise error
    jobs = [(cell, seed) for cell in cells for seed in study.seeds]
    outcomes = _run_all(study, name, jobs, store, nproc)
    reports = {f"report{place or ''}": find(store, "report", one.report) for place, one in enumerate(outcomes)}

    def make(run: Run) -> None:
        documents = [
            Report.model_validate_json((source.path / "report.json").read_text(encoding="utf-8"))
            for source in reports.values()
        ]
        write_table(Table(study, study.cells(), outcomes, documents), outcomes, run.out.path)
        run.out.metrics.update({"cells": len(study.cells()), "seeds": len(study.seeds)})

    config = {"study": study.model_dump(mode="json")}
    return Work(
        store, "study", "report", name, reports, config, make, lambda: plan(study, name, store), force=force
    ).run()


def write_table(table: Table, outcomes: Sequence[CellOutcome], folder: Path) -> None:
    """Write study.json, table.md, study.png and rows.jsonl (one line a case, seed, cell and measure)."""
    runs = [{"cell": one.cell, "seed": one.seed, "report": one.report, "policies": one.policies} for one in outcomes]
    document = table.document() | {"runs": runs}
    (folder / "study.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(table.markdown(), encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.samples), encoding="utf-8")
    table.draw(folder / "study.png")


def plan(study: StudyConfig, name: str, store: Store) -> Plan:
    """Say how many cells there are, and what each does."""
    cells, lacks = check_study(study, name, store)
    summary = [f"{study.title}: {len(cells)} cells x {len(study.seeds)} seeds; base {study.base}"]
    summary += [f"  {cell.name}: {' -> '.join(cell.steps)}" for cell in cells]
    summary.append(f"writes  report/{name} in {store.root}; every step under the names {name}-STEP")
    summary += [f"lacks   {what}" for what in lacks]
    document = {
        "dry_run": True,
        "cells": {cell.name: list(cell.steps) for cell in cells},
        "seeds": list(study.seeds),
        "would_write": f"report/{name}",
        "lacks": list(lacks),
    }
    return Plan(summary, document)


def result(artifact: Artifact) -> Plan:
    """Tell the table."""
    document = json.loads((artifact.path / "study.json").read_text(encoding="utf-8"))
    table = (artifact.path / "table.md").read_text(encoding="utf-8").splitlines()
    where = [f"report {artifact.ref}: {artifact.path / 'table.md'}, {artifact.path / 'study.png'}"]
    return Plan([*table, *where], {"artifact": artifact.ref, "path": str(artifact.path), **document})


def name_of(file: Path) -> str:
    """Give the name of a study: that of its file."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem)
    if not name.strip("-."):
        raise UsageError(f"{file} has no name that an artifact can have", fix="--name NAME")
    return name


def _run_all(study: StudyConfig, name: str, jobs: Sequence[Job], store: Store, nproc: int) -> list[CellOutcome]:
    """Run the jobs, here or in processes of one thread each; outcomes come in the order of the jobs."""
    if nproc < 1:
        raise UsageError(f"{nproc} processes cannot work", fix="--nproc 1")
    with StopSignal() as stop:
        if nproc == 1:
            return [_told(run_cell(study, name, *job, store.root), place, jobs, stop) for place, job in enumerate(jobs)]
        with ExitStack() as held:
            _one_thread(held)
            pool = held.enter_context(
                ProcessPoolExecutor(min(nproc, len(jobs)), get_context("spawn"), initializer=_begin)
            )
            running = {pool.submit(run_cell, study, name, *job, store.root): place for place, job in enumerate(jobs)}
            try:
                return _collected(running, jobs, stop)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for child in active_children():  # they stop as the stages do: with a checkpoint
                    child.terminate()
                raise


def _begin() -> None:
    """Begin a process of cells: it ends with its parent, and is as quiet."""
    stop_with_parent()
    silence_libraries()


def _collected(running: dict[Future[CellOutcome], int], jobs: Sequence[Job], stop: StopSignal) -> list[CellOutcome]:
    """Wait for the jobs in whatever order they end; a stop is seen within a second."""
    found: dict[int, CellOutcome] = {}
    while len(found) < len(jobs):
        done, _ = wait([one for one in running if running[one] not in found], POLL_S, FIRST_COMPLETED)
        for future in done:
            found[running[future]] = _told(future.result(), len(found), jobs, stop)
        if stop.requested:
            raise StoppedError(f"stopped after {len(found)} of {len(jobs)} runs", fix="the same command goes on")
    return [found[place] for place in range(len(jobs))]


def _told(outcome: CellOutcome, done: int, jobs: Sequence[Any], stop: StopSignal) -> CellOutcome:
    """Say that a job is done, and stop between two jobs when asked to."""
    sys.stderr.write(f"[{done + 1}/{len(jobs)}] {outcome.cell}, seed {outcome.seed}: {outcome.report}\n")
    sys.stderr.flush()
    if stop.requested and done + 1 < len(jobs):
        raise StoppedError(f"stopped after {done + 1} of {len(jobs)} runs", fix="the same command goes on")
    return outcome


def _one_thread(held: ExitStack) -> None:
    """Let processes that are started from now on compute with one thread; put the environment back at the end."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        before = os.environ.get(variable)
        os.environ[variable] = "1"
        held.callback(_put_back, variable, before)


def _put_back(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value

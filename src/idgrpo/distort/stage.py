"""Distort many clips: in several processes, in bounded memory, resumable, and with the same result for any number of processes."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from idgrpo.distort.config import DistortConfig
from idgrpo.distort.files import PREFERENCES_FILE, REFUSALS_FILE, SUMMARY_FILE, remove_drafts
from idgrpo.distort.inputs import slug
from idgrpo.distort.job import (
    Bench,
    Regenerate,
    distort_sample,
    exact_painter,
    find_people,
    forget_broken_parts,
    is_distorted,
    is_found,
)
from idgrpo.distort.summary import Summary, refusals_of
from idgrpo.errors import DataError, silence_libraries
from idgrpo.people.contract import Finder
from idgrpo.records.atomic import replacing
from idgrpo.records.document import parse_json
from idgrpo.records.jsonl import write_records
from idgrpo.records.models import Preference, Sample
from idgrpo.run.dealing import Dealing
from idgrpo.run.draws import seed_of
from idgrpo.run.progress import progress
from idgrpo.run.signals import stop_with_parent

_bench: Bench | None = None


def _start_worker(bench: Bench, parent: int) -> None:
    import torch

    global _bench
    stop_with_parent()
    silence_libraries()
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)
    torch.set_num_threads(1)
    _bench = bench


def _work(task: str, arguments: tuple[Any, ...]) -> None:
    assert _bench is not None
    _do(_bench, task, arguments)


def _do(bench: Bench, task: str, arguments: tuple[Any, ...]) -> None:
    if task == "find":
        find_people(bench, *arguments)
    else:
        distort_sample(bench, *arguments)


def _run(bench: Bench, task: str, jobs: Sequence[tuple[Any, ...]], workers: int, label: str, dealing: Dealing) -> None:
    """Do all jobs, with `dealing` shared with other processes; else at most four per worker wait, so that memory is bounded."""
    if workers <= 1:
        is_done = is_found if task == "find" else is_distorted
        shared = dealing.share(
            jobs, lambda job: slug(job[0].id), lambda job: is_done(bench, *job[:2]), label=label, unit="clips"
        )
        for job in shared:
            _do(bench, task, job)
        return
    with progress(len(jobs), label, unit="clip") as bar:
        # Forking after torch has started threads can hang; fresh processes cannot.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start_worker, initargs=(bench, os.getpid())
        ) as pool:
            waiting: set[Future[None]] = set()
            for job in jobs:
                waiting.add(pool.submit(_work, task, job))
                if len(waiting) >= 4 * workers:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    _settle(done, bar)
            _settle(waiting, bar)


def _settle(done: set[Future[None]], bar: Any) -> None:
    for future in done:
        future.result()
        bar.advance()


def _write_gallery(bench: Bench, samples: list[Sample]) -> None:
    """List the people found by the first pass; of very many, a fixed random choice."""
    from idgrpo.distort.located import Located

    folder = bench.folder / "people"
    rows: list[dict[str, Any]] = []
    keep = sorted(samples, key=lambda s: seed_of("gallery", bench.config.seed, s.id))
    for sample in keep:
        path = folder / f"{slug(sample.id)}.npz"
        if not path.exists() or len(rows) >= bench.config.people.max_strangers:
            continue
        located = Located.load(path)
        for slot, reference in enumerate(sample.references):
            rows.append(
                {
                    "key": f"{sample.id}#{slot}",
                    "person": reference.person,
                    "embedding": np.round(located.embeddings[slot].astype(float), 5).tolist(),
                    "material": f"{slug(sample.id)}-{slot}.npz",
                }
            )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "gallery.json") as draft:  # each process writes the same
        draft.write_text(json.dumps(sorted(rows, key=lambda row: row["key"])), encoding="utf-8")


def _parts(folder: Path, num_samples: int) -> Iterator[dict[str, Any]]:
    for index in range(num_samples):
        yield parse_json((folder / "parts" / f"{index:07d}.json").read_text(encoding="utf-8"))


def distort(
    samples: list[Sample],
    config: DistortConfig,
    folder: Path,
    *,
    finder: Callable[..., Finder] | None = None,
    regenerate: Regenerate | None = None,
    workers: int = 1,
    dealing: Dealing | None = None,
) -> Summary | None:
    """Make preferences out of clips and write `prefs.jsonl`, videos/, references/ and `refused.jsonl` into `folder`.

    Run again on the same folder it continues: clips with a finished part are not touched. `finder` makes a finder (picklable;
    called once a process with `people.options`, only for clips whose truth is not known). dealing: other processes that make
    pairs of the same clips in the same folder; None is given to those that do not publish.

    Raises DataError when not one pair could be made.
    """
    dealing = dealing or Dealing()
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not dealing.shared:  # nobody else is writing
        remove_drafts(folder)
    bench = Bench(folder, config, finder, regenerate)
    workers = 1 if regenerate is not None or dealing.shared else workers
    if dealing.publishes:
        forget_broken_parts(bench, len(samples))
    unknown = [sample for sample in samples if exact_painter(sample) is None]
    if unknown:
        _run(bench, "find", [(sample,) for sample in unknown], workers, "find people", dealing)
    _write_gallery(bench, unknown)
    num = len(samples)
    jobs = [(sample, index, index / max(num - 1, 1)) for index, sample in enumerate(samples)]
    _run(bench, "distort", jobs, workers, "distort", dealing)
    return _conclude(folder, num) if dealing.publishes else None


def _conclude(folder: Path, num: int) -> Summary:
    """Put the parts of all clips together."""
    summary = Summary()
    with (folder / REFUSALS_FILE).open("w", encoding="utf-8") as file:
        for part in _parts(folder, num):
            summary.add(part)
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in refusals_of(part))
    if not summary.num_pairs:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in summary.refused.most_common(3))
        raise DataError(f"no pair could be made from {num} clips: {reasons or 'no distortion is possible'}")
    records = (
        Preference.model_validate(row).resolved(folder) for part in _parts(folder, num) for row in part["preferences"]
    )
    write_records(folder / PREFERENCES_FILE, records)
    text = json.dumps(summary.document(), indent=1, ensure_ascii=False)
    (folder / SUMMARY_FILE).write_text(text + "\n", encoding="utf-8")
    return summary

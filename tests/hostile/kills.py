"""Kill every stage at random moments and at each change on disk, run it again, and compare with a run nobody killed.

`python -m tests.hostile.kills --kills 1000 --seed 0 --folder DIR`: writes DIR/kills.jsonl, one line for each kill, prints a
table, and goes on from the log when it is called again. Exit code 1 when something was torn, lost, left or different.
"""

import argparse
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.hostile import page
from tests.hostile.warm import Child, fork, loaded, warm_up, watch
from tests.hostile.world import PAGE_SHARE, STAGES, Stage, fresh_store, make_world

from idgrpo.errors import IdgrpoError
from idgrpo.store.manifest import scan
from idgrpo.store.store import Store

LIMIT_S = 600
TIMES = ("seconds", "cpu_seconds", "samples_per_second", "time")
NEED_A_REWARD_MODEL = {"train-policy"}
TWICE = 0.2
"""Share of the kills whose second run is killed too."""


@dataclass
class Kill:
    """What came of one kill; every list is empty when nothing is wrong."""

    number: int
    stage: str
    how: str
    at: str = ""
    died: bool = False
    resumed: bool = True
    torn: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    locks: list[str] = field(default_factory=list)
    orphans: int = 0
    lost: int = 0
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        return self.resumed and not (self.torn or self.differs or self.locks or self.orphans or self.lost)


@dataclass
class Whole:
    """What a run without a kill leaves, how many changes it makes, and how much processor time it takes."""

    state: dict
    changes: int
    seconds: float


class Harness:
    """The world, and what whole runs leave."""

    def __init__(self, folder: Path, stages: dict[str, Stage]):
        self.folder, self.stages = folder.resolve(), stages
        self.root = self.folder / "world"
        self.whole: dict[str, Whole] = {}

    def prepare(self) -> None:
        """Make the world and run every stage once to its end, twice where the libraries are not loaded yet."""
        shutil.rmtree(self.root, ignore_errors=True)
        modules = self.folder / "modules.json"
        self._ends(self._fork(["--version"], prepare=lambda: make_world(self.root)))
        if self.stages.keys() & NEED_A_REWARD_MODEL:
            reward = [*STAGES["train-rm"].arguments(self.root), "--name", "rm"]
            self._ends(self._fork(reward, finish=lambda: modules.write_text(json.dumps(loaded()))))
            shutil.rmtree(self.root / "store" / "runs")
            shutil.rmtree(self.root / "store" / "cache")
            warm_up(json.loads(modules.read_text()))
        (self.root / "store").rename(self.root / "template")
        for name, stage in self.stages.items():
            if "workers" in name:
                continue  # they load for themselves
            fresh_store(self.root)
            arguments = stage.arguments(self.root)
            self._ends(self._fork(arguments, finish=lambda: modules.write_text(json.dumps(loaded()))))
            warm_up(json.loads(modules.read_text()))
        for name, stage in self.stages.items():
            self.whole[name] = self._run_whole(stage)

    def _run_whole(self, stage: Stage) -> Whole:
        fresh_store(self.root)
        counted, last = self.folder / "changes", 0

        def count(number: int, what: str) -> None:
            nonlocal last
            last = number

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        child = self._fork(
            stage.arguments(self.root),
            prepare=lambda: watch(self.root / "store", count),
            finish=lambda: counted.write_text(str(last)),
        )
        self._ends(child)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Whole(self.state(), int(counted.read_text()), seconds)

    def _fork(self, arguments: list[str], **options) -> Child:
        return fork(arguments, out=self.folder / "out.txt", err=self.folder / "err.txt", **options)

    def _ends(self, child: Child) -> None:
        code = child.wait(LIMIT_S)
        if code:
            raise RuntimeError(f"a run without a kill ended with {code}:\n{(self.folder / 'err.txt').read_text()}")

    def kill(self, number: int, name: str, draw: random.Random, change: int | None) -> Kill:
        """Kill a stage once (or twice), run it to its end, and compare."""
        stage, whole = self.stages[name], self.whole[name]
        begun = time.monotonic()
        fresh_store(self.root)
        row = Kill(number, name, "")
        while not row.died:
            if change is not None:
                row.how, row.at = "change", self._die_at(stage.arguments(self.root), change, row)
            else:
                delay = draw.uniform(0, whole.seconds)
                row.how, row.at = "moment", f"{delay:.3f} s of {whole.seconds:.3f} s of processor time"
                self._die_after(stage.arguments(self.root), delay, row)
                whole.seconds *= 1 if row.died else 0.9  # the machine is quicker now than it was
            if not row.died:
                fresh_store(self.root)
                change = None
        row.torn += torn(self.root / "store")
        again = stage.arguments(self.root, *stage.again)
        if draw.random() < TWICE:
            self._die_after(again, draw.uniform(0, whole.seconds), row)
            row.torn += torn(self.root / "store")
        try:
            code = self._fork(again).wait(LIMIT_S)
        except TimeoutError:
            code = -1
        if code:
            row.resumed = False
            row.differs.append(f"exit {code}: {(self.folder / 'err.txt').read_text()[-1500:]}")
        row.torn += torn(self.root / "store")
        row.differs += differences(whole.state, self.state())
        row.locks = locked(self.root / "store")
        row.seconds = round(time.monotonic() - begun, 3)
        return row

    def _die_at(self, arguments: list[str], change: int, row: Kill) -> str:
        told = self.folder / "at.txt"

        def act(number: int, what: str) -> None:
            if number == change:
                told.write_text(f"{number}: {what}")
                os.kill(os.getpid(), signal.SIGKILL)

        told.unlink(missing_ok=True)
        child = self._fork(arguments, prepare=lambda: watch(self.root / "store", act))
        row.died |= child.wait(LIMIT_S) == -signal.SIGKILL
        row.orphans += left_alone(child)
        return told.read_text() if told.exists() else ""

    def _die_after(self, arguments: list[str], delay_s: float, row: Kill) -> None:
        child = self._fork(arguments)
        row.died |= child.die_after(delay_s, LIMIT_S)
        row.orphans += left_alone(child)

    def state(self) -> dict:
        """Tell all that a store holds: names of files, digests of artifacts, and figures without their times."""
        store = Store(self.root / "store")
        found: dict = {"files": sorted(set(_names(store.root)))}
        for artifact in store.list():
            manifest = artifact.manifest
            found[artifact.ref] = {
                "digest": manifest.digest,
                "inputs": {key: entry.digest for key, entry in manifest.inputs.items()},
                "config": manifest.config,
                "timed": {name: _without_times(artifact.path / name) for name in manifest.timed},
            }
        for extra in store.root.glob("*.jsonl"):
            found[extra.name] = extra.read_text()
        return found


def _names(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not name.startswith("cache/"):
            yield "tensorboard" if "/tensorboard/" in name else name  # the sink's files are named by time and process


def _without_times(path: Path) -> list[dict] | bool:
    """Give the rows of a file of figures without their times; of a page that says when and how it was made, that it is there."""
    if path.suffix != ".jsonl":
        return path.stat().st_size > 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(TIMES)} for row in rows]


def left_alone(child: Child, patience_s: float = 10) -> int:
    """Count the processes that outlive a killed parent; workers get a moment to notice."""
    end = time.monotonic() + patience_s
    while (left := child.orphans()) and time.monotonic() < end:
        time.sleep(0.02)
    return len(left)


def torn(root: Path) -> list[str]:
    """Name what is not whole among the artifacts: files that no manifest names, that are missing or other than named."""
    found = []
    for artifact in Store(root).list():
        try:
            artifact.verify()
            extra = set(scan(artifact.path)) - set(artifact.manifest.files)
            found += [f"{artifact.ref}: {name} is not in the manifest" for name in sorted(extra)]
        except IdgrpoError as error:
            found.append(f"{artifact.ref}: {error}")
    return found


def locked(root: Path) -> list[str]:
    """Name locks that are held though nobody works, and drafts that were left."""
    found = [str(path.relative_to(root)) for path in root.glob("artifacts/*/*/.draft-*")]
    for path in [*root.glob("runs/*/lock"), *root.glob("artifacts/*/.*lock")]:
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(str(path.relative_to(root)))
    return found


def differences(whole: dict, now: dict) -> list[str]:
    """Say in which parts two states differ."""
    found = [
        f"{key}: {json.dumps(whole.get(key), default=str)[:300]} became {json.dumps(now.get(key), default=str)[:300]}"
        for key in sorted(whole.keys() | now.keys())
        if key != "files" and whole.get(key) != now.get(key)
    ]
    extra, missing = set(now["files"]) - set(whole["files"]), set(whole["files"]) - set(now["files"])
    return found + [f"left over: {name}" for name in sorted(extra)] + [f"missing: {name}" for name in sorted(missing)]


def schedule(total: int, seed: int, whole: dict[str, Whole], shares: dict[str, float]) -> list[tuple[str, int | None]]:
    """Share the kills among the stages; half of each at changes, spread evenly over all of them, half at moments."""
    draw = random.Random(seed)
    plan: list[tuple[str, int | None]] = []
    for name, share in shares.items():
        num = max(1, round(total * share / sum(shares.values())))
        if name == page.NAME or "workers" in name:
            plan += [(name, None)] * num
            continue
        at_changes = (num + 1) // 2
        offset = draw.random()
        places = [1 + int((place + offset) * whole[name].changes / at_changes) for place in range(at_changes)]
        plan += [(name, place) for place in places] + [(name, None)] * (num - at_changes)
    draw.shuffle(plan)
    return plan


def table(rows: list[dict]) -> str:
    """Draw what came of the kills, a line for each stage."""
    head = (
        "stage",
        "kills",
        "at changes",
        "at moments",
        "resumed",
        "torn",
        "different",
        "locks",
        "orphans",
        "lost votes",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    names = sorted({row["stage"] for row in rows})
    for name in [*names, "all"]:
        of = [row for row in rows if name in ("all", row["stage"])]
        cells = [
            len(of),
            sum(row["how"] == "change" for row in of),
            sum(row["how"] != "change" for row in of),
            sum(row["resumed"] for row in of),
            *(sum(bool(row[key]) for row in of) for key in ("torn", "differs", "locks")),
            *(sum(row[key] for row in of) for key in ("orphans", "lost")),
        ]
        lines.append("| " + " | ".join(map(str, (name, *cells))) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=int(os.environ.get("IDGRPO_KILLS", "1000")))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("IDGRPO_KILL_SEED", "0")))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stages", help="Names joined by commas; `page` is the page's server. Default: all.")
    given = parser.parse_args()
    wanted = given.stages.split(",") if given.stages else [*STAGES, "page"]
    stages = {name: stage for name, stage in STAGES.items() if name in wanted}
    shares = {name: stage.share for name, stage in stages.items()}
    shares |= {page.NAME: PAGE_SHARE} if "page" in wanted else {}
    given.folder.mkdir(parents=True, exist_ok=True)
    log = given.folder / "kills.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {row["number"] for row in rows}
    harness = Harness(given.folder, stages)
    started = time.monotonic()
    harness.prepare()
    for name, whole in harness.whole.items():
        print(f"{name}: {whole.changes} changes, {whole.seconds:.2f} s", flush=True)
    session = page.Session(harness.root, given.folder)
    plan = schedule(given.kills, given.seed, harness.whole, shares)
    with log.open("a") as file:
        for number, (name, change) in enumerate(plan):
            if number in done:
                continue
            draw = random.Random(f"{given.seed}-{number}")
            if name == page.NAME:
                row = Kill(number, name, "moment", died=True, **session.kill(draw))
            else:
                row = harness.kill(number, name, draw, change)
            rows.append(asdict(row))
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
            if not row.is_clean:
                print(json.dumps(asdict(row), indent=1), flush=True)
        session.close()
    print(f"{len(rows)} kills in {time.monotonic() - started:.0f} s")
    print(table(rows))
    return int(not all(Kill(**row).is_clean for row in rows))


if __name__ == "__main__":
    sys.exit(main())

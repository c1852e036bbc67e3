"""The steps of the demo: ordinary command lines run one after the other, the two policy runs side by side."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from idgrpo.cli import demo_plan as plan
from idgrpo.cli.demo_plan import BASES, Scale
from idgrpo.cli.main import run
from idgrpo.errors import BusyError, IdgrpoError
from idgrpo.run.signals import StopSignal, stop_with_parent
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store

POLL_S = 1.0
SAY_EVERY_S = 30.0


class Loop:
    """The whole loop in one folder; every step leaves an artifact, and a step whose artifact exists is skipped."""

    def __init__(self, scale: Scale, folder: Path, *, num_seeds: int, say: Callable[[str], None]):
        self.scale, self.folder, self.say = scale, folder, say
        self.store = Store(folder / "store")
        self.seconds: dict[str, float] = {}
        self.num_steps, self.done = 8 + 3 * num_seeds, 0
        self.stop = StopSignal()

    # -- the first half: preferences and the reward model ----------------------------------------------------------

    def reward_model(self) -> dict[str, Any]:
        """Collect preferences, train the reward model, and test it on people it has never seen."""
        from idgrpo.cli.demo_reward import test_figures

        scale = self.scale
        with self._step("cases: people, scenes and portraits", "cases"):
            train, test = self._cases("train", scale.train_cases, 0), self._cases("test", scale.test_cases, 0)
        with self._step("true clips of other people, to be damaged", "cases"):
            clean, clean_test = self._true_clips("train", scale.true_clips), self._true_clips("test", scale.test_cases)
        with self._step("distort: identity damaged in known ways", "distort"):
            damaged = self._command(plan.distort(clean.ref, scale.distortions_per_clip, "distorted"))["artifact"]
            damaged_test = self._command(plan.distort(clean_test.ref, scale.distortions_per_clip, "distorted-test"))[
                "artifact"
            ]
        with self._step("sample: both bases draw the training cases", "sample"):
            drawn = [self._sample(base, train, scale.samples_per_case, f"{base}-train") for base in BASES]
        with self._step("annotate: three simulated people vote on pairs", "annotate"):
            votes = self._command(plan.annotate(drawn, "people"))
        with self._step("train-rm: the reward model learns from both", "train-rm"):
            trained = self._command(plan.train_rm([damaged, votes["artifact"]]))
        with self._step("sample: clips of people nobody has seen, for the test", "sample"):
            unseen = [self._sample(base, test, scale.test_samples_per_case, f"{base}-test") for base in BASES]
        with self._step("test the reward model on them", "train-rm"):
            figures = test_figures(self.store, trained["artifact"], damaged_test, unseen)
        return {
            "artifact": trained["artifact"],
            "annotators": votes,
            **figures,
            "preferences": [damaged, votes["artifact"]],
        }

    # -- the second half: policies and their evaluation --------------------------------------------------------------

    def policies(self, seed: int) -> list[dict[str, Any]]:
        """Tune both bases with one seed and compare each with its base on fresh people and fresh noise."""
        scale, reward = self.scale, self.store.resolve("rm/demo").ref
        cases = self._cases("train", scale.train_cases, seed)
        fresh = self._cases("eval", scale.eval_cases, seed)
        with self._step(f"train-policy: GRPO on both bases, seed {seed}", "train-policy"):
            self._train_both(
                {base: plan.train_policy(base, cases.ref, reward, scale.updates_of(base), seed) for base in BASES}
            )
        results = []
        with self._step(f"sample: base and tuned draw {scale.eval_cases} new cases, seed {seed}", "sample"):
            clips = {base: self._before_and_after(base, fresh, seed) for base in BASES}
        with self._step(f"eval: the gain by measures that are not the reward, seed {seed}", "eval"):
            for base, (before, after) in clips.items():
                report = self._command(plan.evaluate(before, after, reward, f"{base}-seed{seed}"))
                policy = self.store.resolve(f"policy/{base}-seed{seed}")
                updates = scale.updates_of(base)
                results.append({"base": base, "seed": seed, "report": report, "policy": policy.ref, "updates": updates})
        return results

    def _before_and_after(self, base: str, cases: Artifact, seed: int) -> tuple[str, str]:
        policy = self.store.resolve(f"policy/{base}-seed{seed}").ref
        noise = 1000 + seed
        before = self._command(plan.sample(base, cases.ref, 1, noise, f"{base}-before-seed{seed}"))["artifact"]
        after = self._command(plan.sample(base, cases.ref, 1, noise, f"{base}-after-seed{seed}", policy))["artifact"]
        return before, after

    # -- running one step ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _step(self, title: str, stage: str) -> Iterator[None]:
        self.stop.check()
        self.done += 1
        self.say(f"[{self.done}/{self.num_steps}] {title}")
        started = time.monotonic()
        yield
        self.stop.check()
        took = time.monotonic() - started
        self.seconds[stage] = self.seconds.get(stage, 0.0) + took
        self.say(f"      done in {took:.0f} s")

    def _command(self, arguments: list[str]) -> dict[str, Any]:
        """Run a command line in this process and return its JSON document."""
        self.stop.check()
        self.say(f"      $ idgrpo {' '.join(arguments)}")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = run([*arguments, "--store", str(self.store.root), "--json"])
        document = json.loads(printed.getvalue())
        if code:
            error = IdgrpoError(
                f"the step `idgrpo {arguments[0]}` failed: {document['error']['message']}", fix=document["error"]["fix"]
            )
            error.exit_code = code
            raise error
        return document

    def _sample(self, base: str, cases: Artifact, per_case: int, name: str) -> str:
        return self._command(plan.sample(base, cases.ref, per_case, 0, name))["artifact"]

    def _cases(self, split: str, num: int, seed: int) -> Artifact:
        from idgrpo.tinyworld.cases import make_cases, write_cases

        config = {"world": "tinyworld", "num": num, "seed": seed, "split": split}
        name = f"{split}-seed{seed}"
        found = self.store.find("cases", name, inputs={}, config=config)
        if found is not None:
            return found
        with self.store.publish("cases", name, inputs={}, config=config) as draft:
            write_cases(draft.path, make_cases(num, seed, split))
        return draft.artifact

    def _true_clips(self, split: str, num: int) -> Artifact:
        from idgrpo.records.jsonl import read_cases
        from idgrpo.tinyworld.cases import write_true_samples

        cases = self._cases(f"{split}", num, 900)
        found = self.store.find("samples", f"true-{split}", inputs={"cases": cases}, config={})
        if found is not None:
            return found
        with self.store.publish("samples", f"true-{split}", inputs={"cases": cases}, config={}) as draft:
            write_true_samples(draft.path, read_cases(cases.file("cases.jsonl")))
        return draft.artifact

    def _train_both(self, commands: dict[str, list[str]]) -> None:
        """Run the policy commands as processes of one thread each; they stop with a checkpoint when this process dies."""
        running = {base: self._start(base, arguments) for base, arguments in commands.items()}
        said = 0.0
        try:
            while any(process.poll() is None for process in running.values()):
                time.sleep(POLL_S)
                self.stop.check()
                if time.monotonic() - said > SAY_EVERY_S:
                    said = time.monotonic()
                    total = {base: self.scale.updates_of(base) for base in running}
                    done = {  # a run that has ended has left its folder
                        base: total[base] if p.poll() == 0 else self._updates_of(commands[base])
                        for base, p in running.items()
                    }
                    self.say("      " + ", ".join(f"{base} {number}/{total[base]}" for base, number in done.items()))
        except BaseException:
            for process in running.values():
                process.terminate()
            raise
        for base, process in running.items():
            if process.returncode:
                error = IdgrpoError(
                    f"training {base} failed (see {self._log(base)})", fix=self._log(base).read_text()[-2000:]
                )
                error.exit_code = process.returncode
                raise error

    def _start(self, base: str, arguments: list[str]) -> subprocess.Popen:
        self.say(f"      $ idgrpo {' '.join(arguments)}")
        log = self._log(base)
        log.parent.mkdir(exist_ok=True)
        if not all(_wait_for_lock(run / "lock") for run in self._runs(arguments)):
            raise BusyError(f"another process trains {base} in {self.store.root}", fix="wait for it to end")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "idgrpo", *arguments, "--store", str(self.store.root), "--quiet"]
        with log.open("w") as file:
            return subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, preexec_fn=stop_with_parent
            )

    def _log(self, base: str) -> Path:
        return self.folder / "logs" / f"{base}.log"

    def _runs(self, arguments: list[str]) -> list[Path]:
        """The run folders of a command; their names end with a digest of all settings."""
        name = arguments[arguments.index("--name") + 1]
        return sorted((self.store.root / "runs").glob(f"train-policy-{name}-*"))

    def _updates_of(self, arguments: list[str]) -> int:
        logs = [run / "metrics.jsonl" for run in self._runs(arguments)]
        return max((sum(1 for _ in log.open()) for log in logs if log.exists()), default=0)


def _wait_for_lock(lock: Path, timeout_s: float = 60.0) -> bool:
    """Wait until nobody holds the lock: after a kill the children of the last demo may still write their checkpoint."""
    import fcntl

    deadline = time.monotonic() + timeout_s
    while lock.exists():
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
        time.sleep(0.5)
    return True

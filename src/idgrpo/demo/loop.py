"""The steps of the demo, one after the other; the two policy runs side by side in processes of one thread each."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from idgrpo import stages
from idgrpo.demo.accuracy import test_figures
from idgrpo.demo.result import demo_document, write_evidence, write_page
from idgrpo.errors import BusyError, IdgrpoError, silence_libraries
from idgrpo.run.progress import duration
from idgrpo.run.signals import StopSignal, stop_with_parent
from idgrpo.stages import Artifact, Store
from idgrpo.stages.annotate import result as result_of_votes
from idgrpo.stages.evaluate import result as result_of_report
from idgrpo.stages.work import Work

BASES = ("tiny-phantom", "tiny-vace")
MIN_STRENGTH = 0.5
"""Distortions weaker than this cannot be seen at 32 pixels."""
PAIRS_PER_CASE = 8
TRUE_SEED = 900
NOISE_SEED = 1000
POLL_S = 1.0
SAY_EVERY_S = 30.0
LOCK_WAIT_S = 60.0
SFT_ROUNDS = {"tiny-phantom": 1, "tiny-vace": 2}
"""In a second round the guidance of SFT is that of the policy of the first one, which tells people apart better."""
GRPO = {"kl.reference": "start", "reward.contrast": 1.0, "rollout.window.last": 3, "optimizer.lr": 3e-3}
"""GRPO after the warm start: the contrastive reward, at the high noise levels where it is decided who is who."""


@dataclass(frozen=True)
class Scale:
    """How large the demo is."""

    train_cases: int
    samples_per_case: int
    true_clips: int
    distortions_per_clip: int
    test_cases: int
    test_samples_per_case: int
    sft_updates: int
    grpo_updates: int
    eval_cases: int


FULL = Scale(160, 3, 300, 4, 64, 3, 240, 12, 64)
EVIDENCE = replace(FULL, eval_cases=128)
QUICK = Scale(16, 2, 40, 3, 12, 2, 4, 2, 8)
SCALES = {"full": FULL, "evidence": EVIDENCE, "quick": QUICK}


def run_demo(out: Path, scale: str = "full", seeds: Sequence[int] = ()) -> dict[str, Any]:
    """Run the whole loop and give its figures; what an earlier call finished is not done again.

    Args:
        out: folder; the demo works in `out/<scale>`.
        scale: full, quick (the same steps at reduced size) or evidence (three seeds, more updates; writes evidence.md).
        seeds: of the policy runs; each draws training and test cases of its own.
    """
    started = time.monotonic()
    folder = (out / scale).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    chosen = list(seeds) or ([0, 1, 2] if scale == "evidence" else [0])
    loop = Loop(SCALES[scale], folder, num_seeds=len(chosen))
    with loop.stop:
        reward = loop.reward_model()
        results = [result for seed in chosen for result in loop.policies(seed)]
    document = demo_document(reward, results, loop.seconds, time.monotonic() - started, write_page(results, folder))
    (folder / "demo.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if scale == "evidence":
        write_evidence(document, out / "evidence.md")
    return document


class Loop:
    """The whole loop in one folder; every step leaves an artifact, and a step whose artifact exists takes no time."""

    def __init__(self, scale: Scale, folder: Path, *, num_seeds: int):
        self.scale, self.folder = scale, folder
        self.store = Store(folder / "store")
        self.seconds: dict[str, float] = {}
        self.num_steps, self.done = 8 + 4 * num_seeds, 0
        self.stop = StopSignal()

    # -- the first half: preferences and the reward model ----------------------------------------------------------

    def reward_model(self) -> dict[str, Any]:
        """Collect preferences, train the reward model, and test it on people it has never seen."""
        scale = self.scale
        with self._step("cases: people, scenes and portraits", "cases"):
            train, test = self._cases("train", scale.train_cases, 0), self._cases("test", scale.test_cases, 0)
        with self._step("true clips of other people, to be damaged", "cases"):
            clean, clean_test = self._true_clips("train", scale.true_clips), self._true_clips("test", scale.test_cases)
        with self._step("distort: identity damaged in known ways", "distort"):
            damaged, damaged_test = self._distort(clean, "distorted"), self._distort(clean_test, "distorted-test")
        with self._step("sample: both bases draw the training cases", "sample"):
            drawn = [self._sample(base, train, scale.samples_per_case, f"{base}-train") for base in BASES]
        with self._step("annotate: three simulated people vote on pairs", "annotate"):
            settings = {"pairs.per_case": PAIRS_PER_CASE}
            votes = self._call(stages.annotate, drawn, by="oracle", settings=settings, name="people")
        with self._step("train-rm: the reward model learns from both", "train-rm"):
            order = {"inputs.reference_order": "average"}
            trained = self._call(stages.train_rm, [damaged, votes], settings=order, name="demo")
        with self._step("sample: clips of people nobody has seen, for the test", "sample"):
            unseen = [self._sample(base, test, scale.test_samples_per_case, f"{base}-test") for base in BASES]
        with self._step("test the reward model on them", "train-rm"):
            figures = test_figures(trained, damaged_test, unseen)
        return {
            "artifact": trained.ref,
            "annotators": result_of_votes(votes).document,
            **figures,
            "preferences": [damaged.ref, votes.ref],
        }

    # -- the second half: policies and their evaluation --------------------------------------------------------------

    def policies(self, seed: int) -> list[dict[str, Any]]:
        """Tune both bases with one seed and compare each with its base on fresh people and fresh noise."""
        scale, reward = self.scale, self.store.resolve("rm/demo")
        cases = self._cases("train", scale.train_cases, seed)
        fresh = self._cases("eval", scale.eval_cases, seed)
        with self._step(
            f"train-policy: SFT of both bases on clips that keep their people, seed {seed}", "train-policy"
        ):
            taught: dict[str, Artifact] = {}
            for place in range(max(SFT_ROUNDS.values())):
                rounds = {
                    base: self._sft(base, place, taught.get(base), seed) for base in BASES if place < SFT_ROUNDS[base]
                }
                taught |= self._train_both(rounds)
        with self._step(f"train-policy: GRPO goes on from there, seed {seed}", "train-policy"):
            tuned = self._train_both({base: self._grpo(base, cases, reward, taught[base], seed) for base in BASES})
        with self._step(f"sample: base and tuned draw {scale.eval_cases} new cases, seed {seed}", "sample"):
            noise = NOISE_SEED + seed
            clips = {
                base: {
                    "base": self._sample(base, fresh, 1, f"{base}-before-seed{seed}", noise),
                    "tuned": self._sample(base, fresh, 1, f"{base}-after-seed{seed}", noise, tuned[base]),
                }
                for base in BASES
            }
        results = []
        with self._step(f"eval: the gain by measures that are not the reward, seed {seed}", "eval"):
            for base in BASES:
                report = self._call(stages.evaluate, clips[base], reward=reward, name=f"{base}-seed{seed}")
                told = result_of_report(report).document
                row = {"base": base, "seed": seed, "report": told, "policy": tuned[base].ref}
                row |= {"sft_updates": scale.sft_updates, "updates": scale.grpo_updates}
                results.append(row)
        return results

    def _sft(self, base: str, place: int, start: Artifact | None, seed: int) -> dict[str, Any]:
        """Give the arguments of `train_policy` for a round of the warm start; a later one goes on from the one before."""
        settings: dict[str, Any] = {"num_updates": self.scale.sft_updates // SFT_ROUNDS[base], "seed": seed}
        data = self.store.resolve("samples/true-train").ref
        given = {"base": base, "method": "sft", "data": data, "name": f"{base}-sft{place + 1}-seed{seed}"}
        if start is not None:
            given["init"], settings["kl.reference"] = start.ref, "start"
        return {**given, "settings": settings}

    def _grpo(self, base: str, cases: Artifact, reward: Artifact, start: Artifact, seed: int) -> dict[str, Any]:
        """Give the arguments of `train_policy` for GRPO, held near the warm start."""
        settings = {"num_updates": self.scale.grpo_updates, "seed": seed} | GRPO
        given = {"base": base, "cases": cases.ref, "rm": reward.ref, "init": start.ref}
        return {**given, "settings": settings, "name": f"{base}-seed{seed}"}

    # -- running one step ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _step(self, title: str, stage: str) -> Iterator[None]:
        self.stop.check()
        self.done += 1
        say(f"[{self.done}/{self.num_steps}] {title}")
        started = time.monotonic()
        yield
        self.stop.check()
        took = time.monotonic() - started
        self.seconds[stage] = self.seconds.get(stage, 0.0) + took
        say(f"      done in {took:.0f} s")

    def _call(self, stage: Callable[..., Artifact], *given: Any, **named: Any) -> Artifact:
        """Call a stage, showing the call."""
        self.stop.check()
        say(f"      {_shown(stage.__name__, given, named)}")
        return stage(*given, **named, store=self.store)

    def _cases(self, split: str, num: int, seed: int) -> Artifact:
        return stages.cases(num=num, seed=seed, split=split, name=f"{split}-seed{seed}", store=self.store)

    def _true_clips(self, split: str, num: int) -> Artifact:
        return self._call(stages.sample, self._cases(split, num, TRUE_SEED), base="tinyworld", name=f"true-{split}")

    def _distort(self, samples: Artifact, name: str) -> Artifact:
        settings = {"per_video": self.scale.distortions_per_clip, "strength.low": MIN_STRENGTH}
        return self._call(stages.distort, samples, settings=settings, name=name)

    def _sample(
        self, base: str, cases: Artifact, per_case: int, name: str, seed: int = 0, policy: Artifact | None = None
    ) -> Artifact:
        settings = {"num_per_case": per_case, "seed": seed}
        tuned = {"policy": policy} if policy is not None else {}
        return self._call(stages.sample, cases, base=base, settings=settings, name=name, **tuned)

    def _train_both(self, calls: Mapping[str, dict[str, Any]]) -> dict[str, Artifact]:
        """Run the policy stages as processes of one thread each; they stop with a checkpoint when this process dies."""
        works = {base: stages.train_policy.prepare(**call, store=self.store) for base, call in calls.items()}
        running = {base: self._start(base, calls[base], work) for base, work in works.items() if work.find() is None}
        said, begun = 0.0, time.monotonic()
        done = {base: _num_lines(works[base].folder / "metrics.jsonl") for base in running}
        try:
            while any(process.is_alive() for process in running.values()):
                time.sleep(POLL_S)
                self.stop.check()
                if time.monotonic() - said > SAY_EVERY_S:
                    said = time.monotonic()
                    passed_s = time.monotonic() - begun
                    say("      " + ", ".join(self._progress(b, calls[b], works[b], done[b], passed_s) for b in running))
        except BaseException:
            for process in running.values():
                process.terminate()
            raise
        for base, process in running.items():
            if process.exitcode:
                log = self._log(base)
                error = IdgrpoError(f"training {base} failed (see {log})", fix=log.read_text(encoding="utf-8")[-2000:])
                error.exit_code = process.exitcode if process.exitcode > 0 else error.exit_code
                raise error
        return {base: work.run() for base, work in works.items()}

    def _progress(self, base: str, call: dict[str, Any], work: Work, before: int, passed_s: float) -> str:
        """Say how far a run is, and how long it takes at its speed since this process began to wait."""
        if not work.folder.is_dir():  # a run that has ended has left its folder
            return f"{base} {'done' if work.find() else 'starting'}"
        now, total = _num_lines(work.folder / "metrics.jsonl"), call["settings"]["num_updates"]
        left = f" ({duration(passed_s / (now - before) * (total - now))} left)" if now > before and now < total else ""
        return f"{base} {now}/{total}{left}"

    def _start(self, base: str, call: dict[str, Any], work: Work) -> BaseProcess:
        say(f"      {_shown('train_policy', (), call)}")
        log = self._log(base)
        log.parent.mkdir(exist_ok=True)
        _wait_for_run(work)
        process = get_context("spawn").Process(target=_train, args=(call, self.store.root, log), name=base)
        with _one_thread():
            process.start()
        return process

    def _log(self, base: str) -> Path:
        return self.folder / "logs" / f"{base}.log"


def _num_lines(file: Path) -> int:
    with contextlib.suppress(OSError), file.open() as lines:
        return sum(1 for _ in lines)
    return 0


def say(line: str) -> None:
    """Tell on stderr what is being done."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _shown(name: str, given: Sequence[Any], named: Mapping[str, Any]) -> str:
    """Write a call of a stage as Python, with references for artifacts."""

    def text(value: Any) -> str:
        if isinstance(value, Artifact):
            return repr(value.ref)
        if isinstance(value, list):
            return f"[{', '.join(map(text, value))}]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key!r}: {text(item)}" for key, item in value.items()) + "}"
        return repr(value)

    return f"{name}({', '.join([*map(text, given), *(f'{key}={text(value)}' for key, value in named.items())])})"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that are started inside compute with one thread."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _train(call: dict[str, Any], store: Path, log: Path) -> None:
    """Train one policy, in a process of its own whose output goes to a log."""
    stop_with_parent()
    silence_libraries()
    with log.open("w", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
        try:
            stages.train_policy(**call, store=Store(store))
        except IdgrpoError as error:
            say(f"error: {error}")
            sys.exit(error.exit_code)


def _wait_for_run(work: Work) -> None:
    """Wait until nobody works in a run: after a kill the processes of the last demo may still write a checkpoint."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while work.folder.is_dir():
        try:
            with work.locked():
                return
        except BusyError:
            if time.monotonic() > deadline:
                raise BusyError(f"another process works in {work.folder}", fix="wait for it to end") from None
        time.sleep(0.5)

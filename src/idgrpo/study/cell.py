"""One cell with one seed: its steps, then held-out clips of base and tuned, and the report that compares them."""

import difflib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idgrpo import stages
from idgrpo.bases.load import resolve_entry
from idgrpo.errors import BusyError, IdgrpoError, StoppedError, UsageError
from idgrpo.stages import Artifact, Store
from idgrpo.study.config import SEED, Cell, StudyConfig

WAIT_S = 2.0
LEFT_OUT = object()


@dataclass(frozen=True)
class CellOutcome:
    """What a cell came to with one seed."""

    cell: str
    seed: int
    report: str
    policies: list[str]
    tflop: float
    figures: dict[str, float | None]


def run_cell(study: StudyConfig, prefix: str, cell: Cell, seed: int, root: Path) -> CellOutcome:
    """Run the steps of a cell; steps that another cell or an earlier call has made take no time.

    prefix: of the names of all artifacts. Errors name the cell, the seed and the step.
    """
    store = Store(root)
    made: dict[str, Artifact] = {}
    figures: dict[str, float | None] = dict.fromkeys(study.figures)  # None: of a step that is left out
    for name, step in cell.steps.items():
        refs = {known: artifact.ref for known, artifact in made.items()}
        given = resolved(step.given, refs, seed)
        if step.stage != "cases":
            given["settings"] = resolved(step.settings, refs, seed)
        if step.stage == "train_policy":
            given.setdefault("base", study.base)
        try:
            made[name] = call(step.stage, store, name=f"{prefix}-{name}", **given)
            figures |= {one: _figure(made[name], one) for one in study.figures if one.partition(".")[0] == name}
        except IdgrpoError as error:
            error.message = f"study, cell {cell.name!r}, seed {seed}, step {name}: {error.message}"
            if isinstance(error, StoppedError):
                error.fix = "the same command goes on"
            raise
    policies = [made[name] for name, step in cell.steps.items() if step.stage == "train_policy"]
    report = _judged(study, prefix, policies[-1], seed, store)
    chain = _chain(policies[-1], policies)
    return CellOutcome(
        cell.name,
        seed,
        report.ref,
        [policy.ref for policy in chain],
        sum(training_tflop(policy) for policy in chain),
        figures,
    )


def call(stage: str, store: Store, **given: Any) -> Artifact:
    """Call a stage; wait while another process of the study makes the same thing."""
    while True:
        try:
            return getattr(stages, stage)(**given, store=store)
        except BusyError:
            time.sleep(WAIT_S)


def resolved(told: Any, made: Mapping[str, str], seed: int) -> Any:
    """Put the references of artifacts and the seed in place of their names.

    What names only steps that were left out goes from lists and tables; by itself it is `LEFT_OUT`.
    """
    if isinstance(told, list | tuple):
        return [value for one in told if (value := resolved(one, made, seed)) is not LEFT_OUT]
    if isinstance(told, dict):
        found = {key: resolved(value, made, seed) for key, value in told.items()}
        return {key: value for key, value in found.items() if value is not LEFT_OUT}
    if told == SEED:
        return seed
    if not isinstance(told, str) or not told.startswith("$"):
        return told
    names = [name.strip().removeprefix("$") for name in told.split("|")]
    return next((made[name] for name in names if name in made), LEFT_OUT)


def _judged(study: StudyConfig, prefix: str, policy: Artifact, seed: int, store: Store) -> Artifact:
    """Compare base and policy on fresh cases with the same noise."""
    held = study.held_out
    fresh = call("cases", store, num=held.num, seed=seed, split="eval", name=f"{prefix}-held-out")
    settings = {**held.settings, "seed": held.noise_seed + seed}
    sides = {
        "base": call("sample", store, cases=fresh, base=study.base, settings=settings, name=f"{prefix}-base"),
        "tuned": call("sample", store, cases=fresh, base=study.base, policy=policy, settings=settings, name=f"{prefix}-tuned"),
    }  # fmt: skip
    return call("evaluate", store, samples=sides, name=f"{prefix}-cell")


def _chain(last: Artifact, policies: list[Artifact]) -> list[Artifact]:
    """List what the last policy was trained from, itself last: policies that it does not start from cost it nothing."""
    known, chain = {policy.ref: policy for policy in policies}, [last]
    while (start := chain[0].manifest.inputs.get("init")) is not None and start.ref in known:
        chain.insert(0, known[start.ref])
    return chain


def _figure(artifact: Artifact, figure: str) -> float:
    """Give the figure `step.metric` of what the step made."""
    metric, metrics = figure.partition(".")[2], artifact.manifest.metrics
    if not isinstance(metrics.get(metric), int | float):
        known = [key for key, value in metrics.items() if isinstance(value, int | float)]
        near = difflib.get_close_matches(metric, known, n=1)
        raise UsageError(
            f"there is no figure {metric!r} (known: {', '.join(known)})",
            fix=f"`figures` may name {near[0]!r}" if near else "name one of them in `figures`",
        )
    return float(metrics[metric])


def training_tflop(policy: Artifact) -> float:
    """Compute what training a policy cost, by the arithmetic of `policy.cost`: forwards and backwards of the transformer.

    Scoring, encoding and decoding are not counted. Two people a case.
    """
    from idgrpo.policy.config import PolicyConfig
    from idgrpo.policy.cost import samples_per_update
    from idgrpo.policy.forecast import load_of

    settings = PolicyConfig.model_validate(policy.manifest.config["policy"])
    load = load_of(resolve_entry(policy.manifest.config["base"]), settings, num_references=2)
    return load.sample_tflop * samples_per_update(settings) * settings.num_updates

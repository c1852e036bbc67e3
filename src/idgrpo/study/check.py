"""What a study is refused for before its first cell begins: arguments, settings and artifacts of every step, measures."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from idgrpo import stages
from idgrpo.bases.load import resolve_entry
from idgrpo.errors import ArtifactError, DataError, IdgrpoError, UsageError
from idgrpo.stages import Store
from idgrpo.stages.sample import TRUE_BASE
from idgrpo.stages.settings import Words, settings_of, settled_policy
from idgrpo.stages.source import Given, find, listed
from idgrpo.stages.train_policy import check_arguments, find_data
from idgrpo.store.store import check_name
from idgrpo.study.cell import LEFT_OUT, resolved
from idgrpo.study.config import Cell, StepConfig, StudyConfig

OWN = {"name", "store", "settings", "force", "resume", "plan_only", "ranks", "gpus", "together", "share", "tell"}
"""Arguments of a stage that the study decides itself."""
KINDS = {
    ("cases", "given"): "cases",
    ("sample", "cases"): "cases",
    ("sample", "policy"): "policy",
    ("distort", "samples"): "samples",
    ("annotate", "samples"): "samples",
    ("annotate", "pairs"): "pairs",
    ("annotate", "votes"): "votes",
    ("annotate", "gold"): "preferences",
    ("annotate", "practice"): "preferences",
    ("annotate", "least_sure"): "rm",
    ("train_rm", "preferences"): "preferences",
    ("train_policy", "cases"): "cases",
    ("train_policy", "eval_cases"): "cases",
    ("train_policy", "rm"): "rm",
    ("train_policy", "init"): "policy",
}
"""Kind of the artifact that an argument of a stage names; what `data` of a policy names depends on its method."""


def check_study(study: StudyConfig, name: str) -> list[Cell]:
    """Check every step of every cell and what they are judged by, and give the cells.

    Raises UsageError: a slip would else show only when the step begins, after hours.
    """
    check_name(name)
    _check_judging(study)
    cells = study.cells()
    for cell in cells:
        for step_name, step in cell.steps.items():
            try:
                check_name(f"{name}-{step_name}")
                _check_step(study, step_name, step, cell)
            except IdgrpoError as error:
                error.message = f"study, cell {cell.name!r}, step {step_name}: {error.message}"
                raise
    return cells


def missing_inputs(cells: Sequence[Cell], store: Store) -> dict[str, IdgrpoError]:
    """Look for everything that steps read and no step makes: what is not there, by the step that reads it first."""
    missing: dict[str, IdgrpoError] = {}
    looked_for: set[tuple[str, str]] = set()
    for cell in cells:
        for name, step in cell.steps.items():
            for kind, given in _inputs(step):
                if (kind, str(given)) in looked_for:
                    continue
                looked_for.add((kind, str(given)))
                try:
                    find_data(store, kind, [given]) if kind in ("sft", "dpo") else find(store, kind, given)
                except (ArtifactError, DataError) as error:
                    missing[f"step {name}: {error.message}"] = error
    return missing


def _inputs(step: StepConfig) -> Iterator[tuple[str, Given]]:
    """Give the artifacts and files that a step names, each with its kind; those of `data` with the method."""
    method = str(step.given.get("method") or step.settings.get("method", "grpo"))
    for key, value in step.given.items():
        kind = method if key == "data" else KINDS.get((step.stage, key))
        for one in listed(value) if kind is not None else ():
            if one is not None and not str(one).startswith(("$", "http://", "https://")):
                yield str(kind), one


def _check_step(study: StudyConfig, name: str, step: StepConfig, cell: Cell) -> None:
    if own := [key for key in step.given if key in OWN]:
        fix = f"steps.{name}.settings" if own[0] == "settings" else "leave it out"
        raise UsageError(f"given.{own[0]}: the study gives it", fix=fix)
    if step.given.get("base", study.base) != study.base and step.stage == "train_policy":
        raise UsageError(
            f"given.base: policies are compared with the study's base {study.base}", fix="`base` of the study"
        )
    earlier = list(cell.steps)[: list(cell.steps).index(name)]
    steps, seed = {known: f"${known}" for known in earlier}, study.seeds[0]
    given = {key: value for key, told in step.given.items() if (value := resolved(told, steps, seed)) is not LEFT_OUT}
    if step.stage == "train_policy":
        given.setdefault("base", study.base)
    _check_arguments(step.stage, given)
    settings = {key: resolved(value, steps, seed) for key, value in step.settings.items()}
    if step.stage == "train_policy":
        base, method = given["base"], given.get("method")
        tiny = resolve_entry(base).architecture == "tiny"
        settled = settled_policy(base, given.get("recipe", "default"), settings, method, is_tiny=tiny)
        check_arguments(settled, **{key: given.get(key) for key in ("cases", "rm", "data", "init")})
    elif step.stage != "cases":
        settings_of(step.stage.replace("_", "-"), Words(options=settings))
    elif settings:
        raise UsageError("cases have no settings", fix="put them into `given`")


def _check_arguments(stage: str, given: dict[str, Any]) -> None:
    """Check the arguments of a stage against its signature: names, types, and what it cannot do without."""
    function = getattr(stages, stage).prepare
    hints = get_type_hints(function)
    known = [key for key in inspect.signature(function).parameters if key not in OWN]
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"{stage} has no argument {key!r} (it has {', '.join(known)})")
        try:
            TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise UsageError(f"given.{key}: {problem[0].lower()}{problem[1:]} (got {value!r})") from None
    if stage == "sample" and not given.keys() & {"base", "policy"}:
        raise UsageError("given: a base or a policy to sample is missing", fix='base = "tiny-phantom"')
    if given.get("base") not in (None, TRUE_BASE):
        resolve_entry(given["base"])
    if stage == "annotate" and given.get("by", "people") == "people" and not given.get("votes"):
        raise UsageError("given.by: a study does not wait for people", fix='by = "oracle", by = "judge", or `votes`')


def _check_judging(study: StudyConfig) -> None:
    """Check what base and policies are compared by."""
    from idgrpo.evaluate import SCORERS
    from idgrpo.evaluate.measure import known_measures

    known = sorted({*known_measures(), *SCORERS})
    for name in study.measures:
        if name not in known:
            raise UsageError(f"study, measures: there is no measure {name!r}", fix=f"one of {', '.join(known)}")
    if "seed" in study.held_out.settings:
        raise UsageError("study, held_out.settings: the seed is that of the noise", fix="held_out.noise_seed = N")
    try:
        settings_of("sample", Words(options=study.held_out.settings))
    except UsageError as error:
        error.message = f"study, held_out.settings: {error.message}"
        raise

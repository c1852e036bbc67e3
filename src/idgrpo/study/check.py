"""What a study is refused for before its first cell begins: arguments, settings and artifacts of every step, measures."""

import inspect
from collections.abc import Iterator
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from idgrpo import stages
from idgrpo.bases.load import resolve_entry
from idgrpo.bases.tuned import refuse_start
from idgrpo.errors import ArtifactError, DataError, IdgrpoError, MachineError, UsageError
from idgrpo.policy.config import PolicyConfig
from idgrpo.stages import Store
from idgrpo.stages.judging import find_judges
from idgrpo.stages.rewards import check_rewards, find_model, find_rewards
from idgrpo.stages.sample import TRUE_BASE
from idgrpo.stages.settings import Words, settings_of, settled_policy
from idgrpo.stages.source import find, listed
from idgrpo.stages.train_policy import check_arguments, find_data
from idgrpo.store.store import check_name
from idgrpo.study.cell import resolved
from idgrpo.study.config import Cell, StudyConfig, texts

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


MADE = {
    "cases": "cases",
    "sample": "samples",
    "distort": "preferences",
    "annotate": "preferences",
    "train_rm": "rm",
    "train_policy": "policy",
}
"""Kind of the artifact that a stage gives."""
READS = {"sample": "cases", "distort": "samples", "annotate": "samples", "train_rm": "preferences"}
"""Argument that a step has to name; a policy's depends on its method."""


def check_study(study: StudyConfig, name: str, store: Store) -> tuple[list[Cell], dict[str, IdgrpoError]]:
    """Check every step of every cell and what they are judged by; give the cells, and what steps read that is not there.

    Raises UsageError: a slip would else show only when the step begins, after hours.
    """
    check_name(name)
    _check_judging(study)
    cells, lacks, checked = study.cells(), dict[str, IdgrpoError](), set[str]()
    for cell in cells:
        for step_name in cell.steps:
            step = _Step(study, cell, step_name, store)
            if step.call in checked:
                continue
            checked.add(step.call)
            try:
                check_name(f"{name}-{step_name}")
                step.check()
            except (ArtifactError, DataError, MachineError) as error:
                lacks[f"step {step_name}: {error.message}"] = error
            except IdgrpoError as error:
                error.message = f"study, cell {cell.name!r}, step {step_name}: {error.message}"
                raise
    return cells, lacks


class _Step:
    """A step in a cell as its stage will be called, with `$name` in place of artifacts that do not exist yet."""

    def __init__(self, study: StudyConfig, cell: Cell, name: str, store: Store):
        self.study, self.cell, self.name, self.store, self.step = study, cell, name, store, cell.steps[name]
        self.stage, seed = self.step.stage, study.seeds[0]
        earlier = list(cell.steps)[: list(cell.steps).index(name)]
        made = {known: f"${known}" for known in earlier}
        self.given = resolved(self.step.given, made, seed)
        self.settings = resolved(self.step.settings, made, seed)
        if self.stage == "train_policy":
            self.given.setdefault("base", study.base)
        self.call = repr((name, self.given, self.settings))

    @property
    def settled(self) -> PolicyConfig:
        """The settings of a step that trains a policy."""
        given, base = self.given, self.given["base"]
        is_tiny = resolve_entry(base).architecture == "tiny"
        return settled_policy(base, given.get("recipe", "default"), self.settings, given.get("method"), is_tiny=is_tiny)

    def check(self) -> None:
        """Raise UsageError for what is wrong in the file, ArtifactError or DataError for an input that is not there."""
        if own := [key for key in self.given if key in OWN]:
            fix = f"steps.{self.name}.settings" if own[0] == "settings" else "leave it out"
            raise UsageError(f"given.{own[0]}: the study gives it", fix=fix)
        _check_arguments(self.stage, self.given)
        if self.stage == "train_policy":
            self._check_policy()
        elif self.stage == "cases":
            if self.settings:
                raise UsageError("cases have no settings", fix="put them into `given`")
        else:
            settings_of(self.stage.replace("_", "-"), Words(options=self.settings))
            if not (self.stage == "annotate" and self.given.get("pairs")):
                self._need(READS[self.stage])
            if judges := [one for one in self.given.get("judges", ()) if not one.startswith("$")]:
                find_judges(self.store, judges)
        inputs = list(self._inputs())
        for key, kinds, one in inputs:
            if one.startswith("$") and (made := MADE[self.study.steps[one[1:]].stage]) not in kinds:
                raise UsageError(f"given.{key}: {one} is of kind {made}; it takes {' or '.join(kinds)}")
        if not any(one.startswith("$") for one in texts([self.given, self.settings])):  # the stage itself can check it
            more = {} if self.stage == "cases" else {"settings": self.settings}
            getattr(stages, self.stage).prepare(**self.given, **more, store=self.store)
            return
        for key, kinds, one in inputs:
            if one.startswith(("$", "http://", "https://")):
                continue
            if key == "rm":
                find_model(self.store, one)
            elif key == "data":
                find_data(self.store, "dpo" if len(kinds) == 1 else "sft", [one])
            else:
                find(self.store, kinds[0], one)

    def _check_policy(self) -> None:
        given, base = self.given, self.given["base"]
        if base != self.study.base:
            raise UsageError(
                f"given.base: policies are compared with the study's base {self.study.base}", fix="`base` of the study"
            )
        entry, settled = resolve_entry(base), self.settled
        check_arguments(settled, **{key: given.get(key) for key in ("cases", "rm", "data", "init", "eval_cases")})
        self._need("cases" if settled.method == "grpo" else "data", settled.method)
        if (settled.method == "grpo" and not settled.reward.sources) or settled.clips.keep == "best":
            self._need("rm")
        sources = settled.reward.sources
        rewards = find_rewards(self.store, {name: one for name, one in sources.items() if not one.startswith("$")})
        later = [name for name, one in sources.items() if one.startswith("$")]
        check_rewards(rewards, settled.reward.weights, more=[*later, *(["rm"] if given.get("rm") else [])])
        init = given.get("init")
        if init is not None and not init.startswith("$"):
            refuse_start(find(self.store, "policy", init).path, settled.train, entry)
        elif init is not None and MADE[self.study.steps[init[1:]].stage] == "policy":
            trained = _Step(self.study, self.cell, init[1:], self.store).settled.train
            if trained != settled.train:
                raise UsageError(f"train={settled.train} cannot go on from {init}, which has train={trained}")

    def _need(self, key: str, method: str | None = None) -> None:
        """Refuse an input that is not named: the newest of the store, which a stage takes then, may be the study's own."""
        kind = KINDS.get((self.stage, key), "preferences" if method == "dpo" else "samples")
        if not self.given.get(key):
            why = "every step that it names is left out in this cell" if key in self.step.given else "it is not given"
            raise UsageError(f"given.{key}: {why}", fix=f"name what the step reads: another step, or {kind}/NAME@v1")

    def _inputs(self) -> Iterator[tuple[str, tuple[str, ...], str]]:
        """Give what the step reads: argument, kinds that it takes, and what is named."""
        is_dpo = "dpo" in (self.given.get("method"), self.settings.get("method"))
        for key, value in self.given.items():
            if (self.stage, key) == ("train_policy", "data"):
                kinds: tuple[str, ...] = ("preferences",) if is_dpo else ("samples", "preferences")
            elif (self.stage, key) in KINDS:
                kinds = (KINDS[self.stage, key],)
            else:
                continue
            yield from ((key, kinds, str(one)) for one in listed(value) if one is not None)


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
            fix = f'{key} = ["{value}"]' if isinstance(value, str) and "Sequence" in problem else None
            raise UsageError(f"given.{key}: {problem[0].lower()}{problem[1:]} (got {value!r})", fix=fix) from None
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
    for own, fix in {"seed": "held_out.noise_seed = N", "base": "`base` of the study"}.items():
        if own in study.held_out.settings:
            raise UsageError(f"study, held_out.settings: the study gives the {own}", fix=fix)
    try:
        settings_of("sample", Words(options=study.held_out.settings))
    except UsageError as error:
        error.message = f"study, held_out.settings: {error.message}"
        raise

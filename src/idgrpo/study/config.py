"""What a study file says: steps, axes of changes, seeds, what is measured, what is claimed. Imports no torch."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from idgrpo.run.config import Config

StageName = Literal["cases", "sample", "distort", "annotate", "train_rm", "train_policy"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
PLACEHOLDER = re.compile(r"\$[A-Za-z0-9.+_-]+(\s*\|\s*\$[A-Za-z0-9.+_-]+)*")
SEED = "$seed"


class ChangeConfig(Config):
    """What a value of an axis changes in one step; keys replace those of the step."""

    given: dict[str, Any] = Field(default={}, description="arguments of the stage")
    settings: dict[str, Any] = Field(default={}, description="settings of the stage, dotted keys")
    skip: bool | None = Field(default=None, description="leave the step out, or put in one that is left out by default")


class StepConfig(Config):
    """One call of a stage. Texts `$name` stand for the artifact of an earlier step, `$seed` for the seed.

    `$b|$a` is the first of them that is not left out; an argument whose steps are all left out is not given.
    """

    stage: StageName = Field(description="cases, sample, distort, annotate, train_rm or train_policy")
    given: dict[str, Any] = Field(default={}, description="arguments of the stage, as in Python")
    settings: dict[str, Any] = Field(default={}, description="settings of the stage, dotted keys")
    skip: bool = Field(default=False, description="left out unless an axis puts it in")

    def changed(self, change: ChangeConfig) -> "StepConfig":
        """Give the step with a change laid over it."""
        skip = self.skip if change.skip is None else change.skip
        given, settings = self.given | change.given, self.settings | change.settings
        return self.model_copy(update={"given": given, "settings": settings, "skip": skip})

    def names(self) -> Iterator[str]:
        """List the names that its arguments and settings refer to."""
        for text in texts([self.given, self.settings]):
            if text.startswith("$") and text != SEED:
                yield from (name.strip().removeprefix("$") for name in text.split("|"))


class HeldOutConfig(Config):
    """What base and tuned policies are compared on: cases of the embedded world that no step saw, other ones for each seed."""

    num: int = Field(default=64, ge=2, le=100_000, description="cases of each seed")
    noise_seed: int = Field(default=1000, ge=0, description="seed of the noise; the study's seed is added")
    settings: dict[str, Any] = Field(default={}, description="settings of `sample`")


class ClaimConfig(Config):
    """A sentence that the study decides: cells with `better` have a larger gain than those with `worse`."""

    text: str = Field(description="the claim in words, such as: more groups are better")
    measure: str = Field(default="identity", description="measure whose gains are compared")
    better: dict[str, str] = Field(description="values of axes; over the other axes the gains are averaged")
    worse: dict[str, str] = Field(description="values of the same axes; none: the untuned base")


@dataclass(frozen=True)
class Cell:
    """One point of the grid: a value of each axis, and the steps that come of it."""

    values: Mapping[str, str]
    steps: Mapping[str, StepConfig]

    @property
    def name(self) -> str:
        return ", ".join(self.values.values()) or "default"


class StudyConfig(Config):
    """A study: every cell is run with every seed, and compared with the untuned base on cases nobody has seen."""

    title: str = Field(description="what the table is called")
    question: str = Field(default="", description="what the study asks, in one sentence")
    paper: str = Field(default="", description="what the paper reports on the same question")
    base: str = Field(description="base that is tuned: sampled untuned, too")
    seeds: tuple[Annotated[int, Field(strict=True, ge=0)], ...] = Field(
        default=(0, 1, 2), min_length=1, description="seeds of every cell"
    )
    steps: dict[str, StepConfig] = Field(description="calls of stages in order; the last policy is what is judged")
    axes: dict[str, dict[str, dict[str, ChangeConfig]]] = Field(
        default={}, description="axis -> value -> step -> what changes; the grid is every combination"
    )
    held_out: HeldOutConfig = HeldOutConfig()
    measures: tuple[str, ...] = Field(
        default=("identity", "separation", "worst"), min_length=1, description="measures of `eval` in the table"
    )
    figures: tuple[str, ...] = Field(
        default=(), description="figures of steps in the table: step.metric, such as rm.test_accuracy_decided"
    )
    claims: tuple[ClaimConfig, ...] = Field(default=(), description="sentences that the table decides")

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        problems = [*self._of_steps(), *self._of_axes(), *self._of_table(), *self._of_claims()]
        if problems:
            raise ValueError("\n  ".join(problems))
        return self

    def cells(self) -> list[Cell]:
        """Give all cells, the last axis running fastest."""
        found = []
        for values in itertools.product(*self.axes.values()):
            chosen = dict(zip(self.axes, values, strict=True))
            steps = dict(self.steps)
            for axis, value in chosen.items():
                for step, change in self.axes[axis][value].items():
                    steps[step] = steps[step].changed(change)
            found.append(Cell(chosen, {name: step for name, step in steps.items() if not step.skip}))
        return found

    def _of_steps(self) -> Iterator[str]:
        places = {name: place for place, name in enumerate(self.steps)}
        changes = [change for values in self.axes.values() for value in values.values() for change in value.items()]
        for name, step in self.steps.items():
            if not NAME.fullmatch(name):
                yield f"steps.{name}: letters, digits, '.', '_' and '-' only"
            if f"${name}" == SEED:
                yield f"steps.{name}: {SEED} stands for the seed; give the step another name"
            for text in texts([step.given, step.settings]):
                if "$" in text and not PLACEHOLDER.fullmatch(text):
                    yield f"steps.{name}: {text!r}: $NAME stands alone, or as $A|$B"
            versions = [step, *(step.changed(change) for changed, change in changes if changed == name)]
            for known in sorted({used for version in versions for used in version.names()}):
                if places.get(known, len(places)) >= places[name]:
                    yield f"steps.{name}: ${known} is no earlier step (earlier: {', '.join(list(places)[: places[name]]) or 'none'})"

    def _of_axes(self) -> Iterator[str]:
        for axis, values in self.axes.items():
            if not values:
                yield f"axes.{axis}: an axis needs values"
            for value, changes in values.items():
                if not NAME.fullmatch(value):
                    yield f"axes.{axis}.{value}: letters, digits, '.', '+', '_' and '-' only"
                for unknown in changes.keys() - self.steps.keys():
                    yield f"axes.{axis}.{value}: there is no step {unknown!r} (steps: {', '.join(self.steps)})"
                    return
        for cell in self.cells():
            if not any(step.stage == "train_policy" for step in cell.steps.values()):
                yield f"cell {cell.name}: no step trains a policy"

    def _of_table(self) -> Iterator[str]:
        for name in ("seeds", "measures", "figures"):
            values = getattr(self, name)
            for twice in sorted({value for value in values if values.count(value) > 1}):
                yield f"{name}: {twice} is there twice"
        for figure in self.figures:
            step, _, metric = figure.partition(".")
            if step not in self.steps or not metric:
                yield f"figures: {figure!r} is no step.metric (steps: {', '.join(self.steps)})"

    def _of_claims(self) -> Iterator[str]:
        for claim in self.claims:
            for axis, value in (*claim.better.items(), *claim.worse.items()):
                if value not in self.axes.get(axis, {}):
                    yield f"claim {claim.text!r}: axis {axis} has no value {value!r}"
            if claim.worse and claim.better.keys() != claim.worse.keys():
                yield f"claim {claim.text!r}: better and worse name different axes"
            if claim.worse and claim.better == claim.worse:
                yield f"claim {claim.text!r}: better and worse are the same cells"
            if claim.measure not in self.measures:
                yield f"claim {claim.text!r}: {claim.measure} is not among the measures of the table"


def texts(value: Any) -> Iterator[str]:
    """List all texts in nested lists and tables."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts(inner)

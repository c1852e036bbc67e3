"""Parts that other packages bring: entry points by group, read without importing them, and imported one by one."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from idgrpo.errors import UsageError

GROUPS: dict[str, str] = {
    "idgrpo.bases": "generators, by the name of --base",
    "idgrpo.rewards": "rewards, by the name of --reward",
    "idgrpo.judges": "judges, by the name of --judge",
    "idgrpo.policy_losses": "policy losses, by loss.name",
    "idgrpo.step_laws": "stochastic step laws, by rollout.law and --law",
    "idgrpo.controls": "controls of the advantages, by advantage.controls",
    "idgrpo.finders": "finders of people, by --finder",
    "idgrpo.distortions": "distortions, by --mix",
    "idgrpo.measures": "measures of the report, also rewards",
}
"""Entry point groups, and how a part of each is named."""


@cache
def installed(group: str) -> dict[str, str]:
    """Give what packages bring in a group: name -> import string. Looks once: going through all packages takes 20 ms."""
    return {entry.name: entry.value for entry in sorted(entry_points(group=group))}


def load(target: str, what: str) -> Any:
    """Import `package.module:attribute`; UsageError says what `what` it was to be and why it cannot be imported."""
    module, _, attribute = target.partition(":")
    try:
        found = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found
    except (Exception, SystemExit) as error:  # whatever a foreign module raises when it is imported
        raise UsageError(
            f"{what} {target} cannot be imported: {type(error).__name__}: {error}",
            fix="put its module on the Python path; `idgrpo plugins` shows what installed packages bring",
        ) from error


class Registry(Mapping[str, str]):
    """Names of one kind of part -> import strings: ours, then those of installed packages, which cannot replace ours."""

    def __init__(self, group: str, house: Mapping[str, str]):
        self.group, self.house = group, dict(house)

    def __getitem__(self, name: str) -> str:
        return self.house[name] if name in self.house else installed(self.group)[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self.house, **installed(self.group)})

    def __len__(self) -> int:
        return len(self.house | installed(self.group))


@dataclass(frozen=True)
class Plugin:
    """One entry point: what it is called, where it is, which distribution brings it, and what importing it gave."""

    group: str
    name: str
    target: str
    package: str
    problem: str | None = None

    @property
    def line(self) -> str:
        """Say it in one line."""
        state = "" if self.problem is None else f"  FAILED: {self.problem}"
        return f"{self.group:<22} {self.name:<20} {self.target}  ({self.package}){state}"


def find_plugins(
    house: Mapping[str, Collection[str]], problem_of: Callable[[str, Any], str | None] = lambda group, part: None
) -> list[Plugin]:
    """Import everything that packages bring, one by one; what fails is told with its reason and stops nothing.

    Args:
        house: names of ours in each group: nothing of these names can be used.
        problem_of: tells what is wrong with an imported part of a group.
    """
    found = []
    for group in GROUPS:
        entries = sorted(entry_points(group=group))
        for entry in entries:
            package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown package"
            try:
                problem = problem_of(group, load(entry.value, "the part"))
            except UsageError as error:
                cause = error.__cause__
                problem = f"{type(cause).__name__}: {cause}"
            taken = installed(group)[entry.name]
            if entry.name in house.get(group, ()):
                problem = "its name is one of idgrpo's own, which cannot be replaced"
            elif taken != entry.value:
                problem = f"another package brings {entry.name} too, and is used: {taken}"
            found.append(Plugin(group, entry.name, entry.value, package, problem))
    return found


def source_file(found: Any) -> str | None:
    """Give the file in which a function or class was written; None where Python cannot tell."""
    try:
        return inspect.getsourcefile(found if callable(found) and hasattr(found, "__code__") else _class_of(found))
    except TypeError:
        return None


def _class_of(found: Any) -> type:
    return found if isinstance(found, type) else type(found)

"""What installed packages bring: bases, rewards, judges, losses, laws, controls, finders, distortions, measures."""

from collections.abc import Collection
from typing import Any

from idgrpo.plugins import GROUPS, find_plugins
from idgrpo.stages.work import Plan


def list_plugins() -> Plan:
    """Import every part that other packages bring and tell which cannot be used, with the reason; that stops nothing."""
    found = find_plugins(_house(), _problem_of)
    lines = [plugin.line for plugin in found] or ["no installed package brings a part"]
    lines += [f"groups of entry points: {', '.join(GROUPS)}"]
    failed = [plugin for plugin in found if plugin.problem is not None]
    document = {"plugins": [vars(plugin) for plugin in found], "groups": GROUPS, "num_failed": len(failed)}
    return Plan(lines, document)


def _house() -> dict[str, Collection[str]]:
    """Give the names of ours in each group."""
    from idgrpo.bases.entries import ENTRIES
    from idgrpo.distort.registry import DISTORTIONS
    from idgrpo.evaluate import FIELD_MEASURES, MEASURES
    from idgrpo.flow import LAWS
    from idgrpo.people import FINDERS
    from idgrpo.policy import CONTROLS, LOSSES

    measures = {**MEASURES, **FIELD_MEASURES}
    registries = {one.group: one.house for one in (CONTROLS, FINDERS, LAWS, LOSSES)}
    # A measure is a reward by its own name, and is looked for first.
    named: dict[str, Collection[str]] = {
        "idgrpo.bases": ENTRIES,
        "idgrpo.distortions": DISTORTIONS,
        "idgrpo.measures": measures,
        "idgrpo.rewards": measures,
    }
    return {**registries, **named}


def _problem_of(group: str, part: Any) -> str | None:
    """Tell what a part of a group is not."""
    from idgrpo.bases.contract import BaseEntry
    from idgrpo.distort.registry import Entry
    from idgrpo.evaluate.measure import is_marked

    if group == "idgrpo.bases":
        return None if isinstance(part, BaseEntry) else f"a {type(part).__name__}, no BaseEntry"
    if group == "idgrpo.measures":
        return None if is_marked(part) else "not marked with @measure of idgrpo.evaluate.measure"
    if not (callable(part) or (group == "idgrpo.distortions" and isinstance(part, Entry))):
        return f"a {type(part).__name__}, which cannot be called"
    return None

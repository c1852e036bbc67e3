"""What installed packages bring: bases, rewards, judges, losses, laws, controls, finders, distortions, measures."""

from idgrpo.plugins import GROUPS, find_plugins
from idgrpo.stages.work import Plan


def list_plugins() -> Plan:
    """Import every part that other packages bring and tell which failed, with the reason; a failure stops nothing."""
    found = find_plugins()
    lines = [plugin.line for plugin in found] or ["no installed package brings a part"]
    lines += [f"groups of entry points: {', '.join(GROUPS)}"]
    failed = [plugin for plugin in found if plugin.problem is not None]
    document = {"plugins": [vars(plugin) for plugin in found], "groups": GROUPS, "num_failed": len(failed)}
    return Plan(lines, document)

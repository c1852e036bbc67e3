"""What things were made from, as a tree for people: each artifact once."""

import shlex
from collections.abc import Iterable, Mapping

from idgrpo.errors import ArtifactError
from idgrpo.evaluate.document import Provenance
from idgrpo.stages.source import Source
from idgrpo.store.store import Ancestor, Store, current_command

SEEN = "(shown above)"


def tree_lines(steps: Iterable[Ancestor], *, with_commands: bool = True) -> list[str]:
    """Draw the steps of `Store.lineage` as a tree; what stands twice is drawn once with what it was made from."""
    kept: list[tuple[Ancestor, bool]] = []
    drawn: set[str] = set()
    below: int | None = None  # depth of an artifact drawn before: what hangs below it is not repeated
    for step in steps:
        if below is not None and step.depth > below:
            continue
        again = step.ref in drawn and step.artifact is not None
        below = step.depth if again else None
        drawn.add(step.ref)
        kept.append((step, again))
    return [_line(kept, place, with_commands) for place in range(len(kept))]


def _line(kept: list[tuple[Ancestor, bool]], place: int, with_commands: bool) -> str:
    step, again = kept[place]
    marks = ""
    for level in range(1, step.depth + 1):
        more = _has_more(kept, place, level)
        marks += ("├─ " if more else "└─ ") if level == step.depth else ("│  " if more else "   ")
    name = f"{marks}{step.ref}" + (f" ({' and '.join(step.roles)})" if len(step.roles) > 1 else "")
    if again:
        return f"{name} {SEEN}"
    if step.artifact is None:
        return f"{name}   (a file, or no longer there)"
    return name + (f"   <- {' '.join(step.artifact.manifest.command)}" if with_commands else "")


def _has_more(kept: list[tuple[Ancestor, bool]], place: int, level: int) -> bool:
    """Tell whether something of this level follows under the same parent."""
    for step, _ in kept[place + 1 :]:
        if step.depth < level:
            return False
        if step.depth == level:
            return True
    return False


def provenance(store: Store, inputs: Mapping[str, Source], settings: str) -> Provenance:
    """Say by which command, with which settings (TOML) and from what something is being made."""
    lines: list[str] = []
    for key, source in inputs.items():
        if source.artifact is None:
            lines.append(f"{key} = {source.path.name} ({source.digest[:19]})")
            continue
        try:
            first, *rest = tree_lines(store.lineage(source.artifact), with_commands=False)
        except ArtifactError:
            first, rest = source.ref, []
        lines += [f"{key} = {first}", *rest]
    return Provenance(shlex.join(current_command()), settings, tuple(lines))

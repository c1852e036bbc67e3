"""What things were made from, as a tree for people: each artifact once."""

import shlex
from collections.abc import Iterable, Mapping

from idgrpo.errors import ArtifactError
from idgrpo.evaluate.document import Provenance
from idgrpo.stages.source import Source
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store, current_command

SEEN = "(shown above)"
Step = tuple[int, str, Artifact | None]


def tree_lines(steps: Iterable[Step], *, with_commands: bool = True) -> list[str]:
    """Draw the steps of `Store.lineage` as a tree; what stands twice is drawn once with what it was made from."""
    kept: list[tuple[int, str, Artifact | None, bool]] = []
    drawn: set[str] = set()
    below: int | None = None  # depth of an artifact drawn before: what hangs below it is not repeated
    for depth, ref, found in steps:
        if below is not None and depth > below:
            continue
        again = ref in drawn and found is not None
        below = depth if again else None
        drawn.add(ref)
        kept.append((depth, ref, found, again))
    return [_line(kept, place, with_commands) for place in range(len(kept))]


def _line(kept: list[tuple[int, str, Artifact | None, bool]], place: int, with_commands: bool) -> str:
    depth, ref, found, again = kept[place]
    marks = ""
    for level in range(1, depth + 1):
        more = _has_more(kept, place, level)
        marks += ("├─ " if more else "└─ ") if level == depth else ("│  " if more else "   ")
    if again:
        return f"{marks}{ref} {SEEN}"
    if found is None:
        return f"{marks}{ref}   (a file, or no longer there)"
    return f"{marks}{ref}" + (f"   <- {' '.join(found.manifest.command)}" if with_commands else "")


def _has_more(kept: list[tuple[int, str, Artifact | None, bool]], place: int, level: int) -> bool:
    """Tell whether something of this level follows under the same parent."""
    for depth, *_ in kept[place + 1 :]:
        if depth < level:
            return False
        if depth == level:
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

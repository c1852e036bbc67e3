"""Making room: remove old versions that nothing kept was made from."""

import fcntl
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from idgrpo.errors import UsageError
from idgrpo.store import KINDS
from idgrpo.store.artifact import Artifact
from idgrpo.store.draft import new_draft_folder, remove_abandoned
from idgrpo.store.store import Store


@dataclass(frozen=True)
class Pruned:
    """What goes, and what was old enough but stays, with the reason."""

    removed: list[Artifact]
    kept: dict[str, str]
    size_bytes: int


def plan(store: Store, kind: str | None = None, *, keep: int = 1) -> Pruned:
    """Choose what can go: all but the newest `keep` versions of each name, of one kind or of all.

    What carries a tag stays, and what a process reads that works in this store now. So does everything that anything kept
    was made from, of whatever kind and through however many steps: no lineage is cut.

    Raises:
        ArtifactError: the manifest of something kept is damaged, so that nobody knows what it was made from.
    """
    if keep < 1:
        raise UsageError(f"keep {keep}: at least one version of each name stays")
    if kind not in (None, *KINDS):
        raise UsageError(f"unknown kind of artifact '{kind}' (known: {', '.join(KINDS)})")
    everything = {artifact.ref: artifact for artifact in store.list()}
    old = {ref: artifact for ref, artifact in everything.items() if kind in (None, artifact.kind)}
    newer: Counter[tuple[str, str]] = Counter()
    for ref, artifact in sorted(old.items(), key=lambda item: -item[1].version):
        newer[artifact.kind, artifact.name] += 1
        if newer[artifact.kind, artifact.name] <= keep:
            del old[ref]
    kept: dict[str, str] = {}
    tagged = {target: f"{one}:{tag}" for one in KINDS for tag, target in store.tags(one).items()}
    running = _cards_of_running(store)
    for ref in list(old):
        if ref in tagged:
            kept[ref] = f"tagged {tagged[ref]}"
        elif running and any(old[ref].digest in card for card in running):
            kept[ref] = "in use by a running stage"
        else:
            continue
        del old[ref]
    waiting = [artifact for ref, artifact in everything.items() if ref not in old]
    while waiting:
        maker = waiting.pop()
        for entry in maker.manifest.inputs.values():
            source = _owner(store, entry.ref, everything)
            if source is not None and source.ref in old:
                kept[source.ref] = f"{maker.ref} was made from it"
                waiting.append(old.pop(source.ref))
    removed = sorted(old.values(), key=lambda artifact: (artifact.kind, artifact.name, artifact.version))
    files = (path for artifact in removed for path in artifact.path.rglob("*") if path.is_file())
    return Pruned(removed, kept, sum(path.stat().st_size for path in files))


def prune(store: Store, kind: str | None = None, *, keep: int = 1) -> Pruned:
    """Remove what `plan` chose, and drafts of killed processes. Each artifact leaves by one rename: never half of it."""
    chosen = plan(store, kind, keep=keep)
    for folder in (store.root / "artifacts").glob("*/*/"):
        remove_abandoned(folder)
    for artifact in chosen.removed:
        # A draft of this process: should it be killed now, the next publisher removes the rest.
        aside = new_draft_folder(artifact.path.parent)
        os.rename(artifact.path, aside)
        shutil.rmtree(aside)
    return chosen


def _owner(store: Store, ref: str, everything: dict[str, Artifact]) -> Artifact | None:
    """Find the artifact of this store that an input is, or lies in; None for anything else."""
    if ref in everything:
        return everything[ref]
    try:
        parts = Path(ref).relative_to(store.root / "artifacts").parts
    except ValueError:
        return None
    if len(parts) < 3 or not parts[2].removeprefix("v").isdigit():
        return None
    return everything.get(f"{parts[0]}/{parts[1]}@v{int(parts[2][1:])}")


def _cards_of_running(store: Store) -> list[str]:
    """Read the cards (configuration and digests of the inputs) of runs whose lock is held."""
    cards = []
    for path in (store.root / "runs").glob("*/lock"):
        card = path.with_name("run.json")
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if card.is_file():
                    cards.append(card.read_text(encoding="utf-8"))
    return cards

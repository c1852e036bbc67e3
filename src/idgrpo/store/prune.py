"""Making room: remove old versions that nothing kept was made from."""

import contextlib
import fcntl
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from idgrpo.errors import UsageError
from idgrpo.records.document import parse_json
from idgrpo.store import KINDS
from idgrpo.store.artifact import Artifact
from idgrpo.store.draft import draft_folder, remove_abandoned
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
    in_use = _in_use(store)
    for ref in list(old):
        if ref in tagged:
            kept[ref] = f"tagged {tagged[ref]}"
        elif ref in in_use or old[ref].digest in in_use:
            kept[ref] = "in use by a running stage"
        else:
            continue
        del old[ref]
    waiting = [artifact for ref, artifact in everything.items() if ref not in old]
    while waiting:
        maker = waiting.pop()
        sources = [_owner(store, entry.ref, everything) for entry in maker.manifest.inputs.values()]
        # Records may name clips and photos of artifacts that were never given as such: they came by way of a file.
        sources += [everything.get(ref) for ref in refs_named_in(maker)] if old else []
        for source in sources:
            if source is not None and source.ref in old:
                kept[source.ref] = f"{maker.ref} was made from it"
                waiting.append(old.pop(source.ref))
    removed = sorted(old.values(), key=lambda artifact: (artifact.kind, artifact.name, artifact.version))
    return Pruned(removed, kept, sum(map(_size_bytes, removed)))


def _size_bytes(artifact: Artifact) -> int:
    size = 0
    with contextlib.suppress(FileNotFoundError):  # somebody removes it now
        for path in artifact.path.rglob("*"):
            size += path.stat().st_size if path.is_file() else 0
    return size


def prune(store: Store, kind: str | None = None, *, keep: int = 1) -> Pruned:
    """Remove what `plan` chose, and drafts of killed processes. Each artifact leaves by one rename: never half of it.

    Another prune waits until this one is done, and a stage that begins is either seen, or sees what is gone.
    """
    with contextlib.ExitStack() as asides, choosing(store, alone=True):
        chosen = plan(store, kind, keep=keep)
        for folder in (store.root / "artifacts").glob("*/*/"):
            remove_abandoned(folder)
        for artifact in chosen.removed:
            # A draft of this process: should it be killed now, the next publisher removes the rest.
            os.rename(artifact.path, asides.enter_context(draft_folder(artifact.path.parent)))
    return chosen


@contextlib.contextmanager
def choosing(store: Store, *, alone: bool = False) -> Iterator[None]:
    """Hold still what can be pruned: a stage while it says what it reads, a prune, `alone`, while it looks and removes."""
    folder = store.root / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".prune.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


NAMED = re.compile(rf"({'|'.join(KINDS)})/([A-Za-z0-9][A-Za-z0-9._-]*)/v(\d{{4,}})/")


def refs_named_in(source: Artifact | Path) -> set[str]:
    """Give the references of the artifacts whose files the records of an artifact, or of a file, name."""
    files = source.path.glob("*.jsonl") if isinstance(source, Artifact) else [source]
    found: set[str] = set()
    for file in files:
        with contextlib.suppress(OSError), file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                found |= {f"{kind}/{name}@v{int(version)}" for kind, name, version in NAMED.findall(line)}
    return found


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


def _in_use(store: Store) -> set[str]:
    """Give references and digests of what runs whose lock is held say, on their cards, that they read."""
    found: set[str] = set()
    for path in (store.root / "runs").glob("*/lock"):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found |= set(_texts(parse_json(path.with_name("run.json").read_bytes())))
    return found


def _texts(document: object) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict | list):
        for inner in document.values() if isinstance(document, dict) else document:
            yield from _texts(inner)

"""The store: publish, find, resolve and list artifacts."""

import contextlib
import errno
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from idgrpo import __version__
from idgrpo.errors import ArtifactError, UsageError
from idgrpo.records.atomic import replacing
from idgrpo.records.digest import file_digest
from idgrpo.records.document import parse_json
from idgrpo.store import KINDS
from idgrpo.store.artifact import Artifact
from idgrpo.store.draft import Draft, draft_folder, remove_abandoned
from idgrpo.store.manifest import InputEntry, Manifest, canonical, content_digest, environment, scan
from idgrpo.store.tags import read_tags, write_tag

ROOT_VARIABLE = "IDGRPO_STORE"
VERSION = re.compile(r"v\d{4,}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_NAME = 120
MAKERS = {
    "cases": "`idgrpo cases` (embedded world) or `idgrpo cases FILE` (.csv, .jsonl, a folder of photos)",
    "samples": "`idgrpo sample --base NAME`",
    "pairs": "`idgrpo annotate --samples REF`",
    "votes": "`idgrpo annotate --samples REF`",
    "preferences": "`idgrpo annotate` or `idgrpo distort`",
    "rm": "`idgrpo train-rm --data prefs.jsonl`",
    "policy": "`idgrpo train-policy --base NAME`",
    "report": "`idgrpo eval`",
}


Input = Artifact | Path | InputEntry
"""What an artifact was made from: an artifact, a file or folder (hashed now), or an entry pinned before."""


class Ancestor(NamedTuple):
    """An input on the way to an artifact: `artifact` is None for files and lost ones; roles: the names its maker gave it."""

    depth: int
    ref: str
    artifact: Artifact | None
    roles: tuple[str, ...]


class Store:
    """Artifacts under `root/artifacts/<kind>/<name>/v0001/`, runs under `root/runs/`."""

    def __init__(self, root: Path | str):
        self.root = Path(root).absolute()
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"{self.root} is a file, a store is a folder", fix="point --store elsewhere")

    @classmethod
    def default(cls) -> "Store":
        """Open the store named by $IDGRPO_STORE, or ./idgrpo-store."""
        return cls(Path(os.environ.get(ROOT_VARIABLE) or "idgrpo-store"))

    def run_dir(self, name: str) -> Path:
        """Return the folder of the run called `name`."""
        return self.root / "runs" / name

    def _kind_dir(self, kind: str) -> Path:
        if kind not in KINDS:
            raise UsageError(f"unknown kind of artifact '{kind}' (known: {', '.join(KINDS)})")
        return self.root / "artifacts" / kind

    # -- reading ---------------------------------------------------------------------------------------------------

    def list(self, kind: str | None = None) -> Iterator[Artifact]:
        """Give the artifacts of one kind or of all, newest first within a kind."""
        for one in (kind,) if kind else KINDS:
            found = [
                (_created(path := _version_path(folder, version)), version, folder.name, path)
                for folder in _folders(self._kind_dir(one))
                for version in _versions(folder)
            ]
            for _, version, name, path in sorted(found, reverse=True):
                yield Artifact(one, name, version, path)

    def resolve(self, ref: str, kind: str | None = None) -> Artifact:
        """Find the artifact that a reference names, and check it.

        `rm` (newest), `rm@v3`, `rm/name@v3`, `name` and `name@v3` (when `kind` is given), `rm:best` (a tag),
        `rm@sha256:..`, or the path of an artifact's folder.

        Raises:
            ArtifactError: nothing fits (says which command makes one), more than one does, or its files have changed.
        """
        artifact = self._find_ref(ref, kind)
        if kind is not None and artifact.kind != kind:
            raise ArtifactError(
                f"{ref} is a {artifact.kind} artifact, a {kind} artifact is needed here", fix="`idgrpo artifacts list`"
            )
        artifact.verify(every_byte=False)
        return artifact

    def gave(self, artifact: Artifact) -> None:
        """Remember that a command gave this artifact, made now or found: `newest` takes it until another one is given or made."""
        file = self._given_file(artifact.kind)
        with contextlib.suppress(OSError):  # a store that can only be read
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as draft:
                draft.write_text(json.dumps({"ref": artifact.ref, "utc": self._now(artifact.kind)}), encoding="utf-8")

    def _given_file(self, kind: str) -> Path:
        return self.root / "cache" / "newest" / f"{kind}.json"

    def newest(self, kind: str, accept: Callable[[Artifact], bool] = lambda artifact: True) -> Artifact | None:
        """Give the artifact of a kind that was last made, or found again by the command that makes it; None without any.

        So the same commands again take the same inputs. accept: which artifacts count.
        """
        for artifact in [*self._last_given(kind), *self.list(kind)]:
            if accept(artifact):
                artifact.verify(every_byte=False)
                return artifact
        return None

    def _last_given(self, kind: str) -> Iterator[Artifact]:
        """Give the artifact that a command found again after the newest one was made, if it is still there."""
        with contextlib.suppress(OSError, ValueError, KeyError, ArtifactError):
            mark = json.loads(self._given_file(kind).read_bytes())
            newest = max((_created(artifact.path) for artifact in self.list(kind)), default="")
            if mark["utc"] >= newest:
                yield self._find_ref(mark["ref"], kind)

    def _find_ref(self, ref: str, kind: str | None) -> Artifact:
        if (Path(ref) / "manifest.json").is_file():
            return self._at_path(Path(ref))
        head, _, tail = ref.partition("@")
        head, _, tag = head.partition(":")
        first, slash, name = head.partition("/")
        if not slash and first not in KINDS and kind is not None:
            first, name = kind, first
        if first not in KINDS:
            raise ArtifactError(
                f"'{ref}' names no artifact and no existing folder", fix="`idgrpo artifacts list` shows what is there"
            )
        if tag:
            return self._tagged(first, name, tag, ref)
        if tail.startswith("sha256:"):
            return self._by_digest(first, tail, ref)
        if tail and not re.fullmatch(r"v\d+", tail):
            raise ArtifactError(f"'{ref}': '{tail}' is neither a version such as v3 nor sha256:..")
        version = int(tail[1:]) if tail else None
        folders = [self._kind_dir(first) / name] if name else list(_folders(self._kind_dir(first)))
        found = [
            (folder.name, number, _version_path(folder, number))
            for folder in folders
            for number in _wanted(folder, version)
        ]
        if not found:
            raise ArtifactError(f"there is no '{ref}' in {self.root}", fix=f"make one: {MAKERS[first]}")
        if version is not None and not name and len(found) > 1:
            names = ", ".join(f"{first}/{owner}@v{version}" for owner, _, _ in sorted(found))
            raise ArtifactError(f"'{ref}' could be {names}", fix="say which")
        owner, number, path = max(found, key=lambda item: _created(item[2])) if len(found) > 1 else found[0]
        return Artifact(first, owner, number, path)

    def _at_path(self, path: Path) -> Artifact:
        manifest = Artifact("?", path.name, 0, path).manifest
        return Artifact(manifest.kind, manifest.name, manifest.version, path.absolute())

    def _by_digest(self, kind: str, digest: str, ref: str) -> Artifact:
        found = [artifact for artifact in self.list(kind) if artifact.digest.startswith(digest)]
        if len({artifact.digest for artifact in found}) != 1:
            problem = "several artifacts have" if found else "no artifact has"
            raise ArtifactError(f"'{ref}': {problem} a digest that starts so")
        return found[0]

    def tags(self, kind: str) -> dict[str, str]:
        """Return the tags of a kind: tag -> reference."""
        return read_tags(self._kind_dir(kind))

    def tag(self, artifact: Artifact, tag: str) -> None:
        """Let `kind:tag` mean this artifact from now on."""
        if not NAME.fullmatch(tag):
            raise UsageError(f"'{tag}' cannot be a tag: letters, digits, '.', '_' and '-' only")
        write_tag(self._kind_dir(artifact.kind), tag, artifact.ref)

    def _tagged(self, kind: str, name: str, tag: str, ref: str) -> Artifact:
        target = self.tags(kind).get(tag)
        if target is None or (name and not target.startswith(f"{kind}/{name}@")):
            known = ", ".join(sorted(self.tags(kind))) or "none"
            raise ArtifactError(
                f"there is no tag '{ref}' (tags of {kind}: {known})", fix=f"idgrpo artifacts tag {kind}@vN {tag}"
            )
        return self._find_ref(target, kind)

    def lineage(self, artifact: Artifact) -> Iterator[Ancestor]:
        """Walk what an artifact was made from, itself first; an input with two roles comes once."""
        stack: list[tuple[int, str, tuple[str, ...]]] = [(0, artifact.ref, ())]
        while stack:
            depth, ref, roles = stack.pop()
            try:
                found = self._find_ref(ref, None)
            except ArtifactError:
                found = None
            yield Ancestor(depth, ref, found, roles)
            if found is not None:
                of_ref: dict[str, tuple[str, ...]] = {}
                for role, entry in found.manifest.inputs.items():
                    of_ref[entry.ref] = (*of_ref.get(entry.ref, ()), role)
                stack += [(depth + 1, below, named) for below, named in reversed(of_ref.items())]

    # -- writing ---------------------------------------------------------------------------------------------------

    def find(self, kind: str, name: str, *, inputs: Mapping[str, Input], config: dict[str, Any]) -> Artifact | None:
        """Return the newest artifact that was made from the same inputs with the same configuration, if it is whole."""
        wanted, settings = _digests(_pin(inputs)), canonical(config)
        folder = self._kind_dir(kind) / name
        for path in (_version_path(folder, number) for number in reversed(_versions(folder))):
            # What is damaged counts as not there: the stage makes it again.
            with contextlib.suppress(ArtifactError):
                artifact = self._at_path(path)
                if _digests(artifact.manifest.inputs) == wanted and canonical(artifact.manifest.config) == settings:
                    artifact.verify(every_byte=False)
                    return artifact
        return None

    @contextlib.contextmanager
    def publish(
        self,
        kind: str,
        name: str,
        *,
        inputs: Mapping[str, Input],
        config: dict[str, Any],
        command: Sequence[str] | None = None,
        metrics: dict[str, Any] | None = None,
        started: float | None = None,
    ) -> Iterator[Draft]:
        """Build an artifact beside its place and publish it whole: files, flush, manifest last, one rename.

        started: `time.monotonic()` when the work on it began; None means now.

        An exception inside leaves nothing behind; a kill leaves a hidden draft that the next publisher removes.
        """  # fmt: skip
        folder = self._kind_dir(kind) / check_name(name)
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        started, pinned = started or time.monotonic(), _pin(inputs)
        with draft_folder(folder) as path:
            draft = Draft(path, dict(metrics or {}))
            yield draft
            _drop_unfinished(draft.path)
            files = scan(draft.path)
            timed = tuple(sorted(draft.timed & set(files)))
            while True:
                version = max(_versions(folder), default=0) + 1
                manifest = Manifest(
                    kind=kind, name=name, version=version, digest=content_digest(files, timed), files=files, timed=timed, inputs=pinned,
                    config=json.loads(canonical(config)), command=list(command or current_command()), code_version=__version__,
                    environment=environment(), metrics=json.loads(json.dumps(draft.metrics, default=str)),
                    created_utc=self._now(kind), seconds=round(time.monotonic() - started, 3),
                )  # fmt: skip
                target = _version_path(folder, version)
                (draft.path / "manifest.json").write_text(
                    manifest.sealed().model_dump_json(indent=1) + "\n", encoding="utf-8"
                )
                _sync_tree(draft.path)
                try:
                    os.rename(draft.path, target)
                    break
                except OSError as error:
                    # Another publisher took this number meanwhile: its folder is there and not empty. Take the next.
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
            _sync(folder)
            draft._artifact = Artifact(kind, name, version, target)
            draft.path = target

    def _now(self, kind: str) -> str:
        """Give the time, never before the newest artifact of the kind: "newest" survives a clock that goes back."""
        newest = max((_created(artifact.path) for artifact in self.list(kind)), default="")
        now = datetime.now(UTC)
        if newest > now.isoformat(timespec="microseconds"):
            now = datetime.fromisoformat(newest) + timedelta(microseconds=1)
        return now.isoformat(timespec="microseconds")


def check_name(name: str) -> str:
    """Give the name back when an artifact can have it; UsageError otherwise."""
    if not NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise UsageError(
            f"'{name[:80]}' cannot be a name: letters, digits, '.', '_' and '-' only, at most {MAX_NAME} of them"
        )
    return name


def _created(path: Path) -> str:
    """Return when an artifact was made; what cannot be read sorts as oldest."""
    try:
        return str(parse_json((path / "manifest.json").read_bytes())["created_utc"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _folders(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (Path(entry.path) for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _versions(folder: Path) -> list[int]:
    """List the versions under a name, oldest first."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(int(entry.name[1:]) for entry in entries if VERSION.fullmatch(entry.name))


def _wanted(folder: Path, version: int | None) -> list[int]:
    """Give the version asked for, or the newest; nothing when it is not there."""
    if version is None:
        return _versions(folder)[-1:]
    return [version] if _version_path(folder, version).is_dir() else []


def _version_path(folder: Path, version: int) -> Path:
    return folder / f"v{version:04d}"


def _pin(inputs: Mapping[str, Input]) -> dict[str, InputEntry]:
    pinned = {}
    for key, value in inputs.items():
        if isinstance(value, InputEntry):
            pinned[key] = value
        elif isinstance(value, Artifact):
            pinned[key] = InputEntry(ref=value.ref, digest=value.digest)
        elif value.is_dir():
            pinned[key] = InputEntry(ref=str(value), digest=content_digest(scan(value, file_digest)))
        else:
            pinned[key] = InputEntry(ref=str(value), digest="sha256:" + file_digest(value))
    return pinned


def _digests(inputs: dict[str, InputEntry]) -> dict[str, str]:
    return {key: entry.digest for key, entry in inputs.items()}


def current_command() -> list[str]:
    """Give the command line of this process, without the folder of its program."""
    program = Path(sys.argv[0]).name
    return ["idgrpo" if program == "__main__.py" else program, *sys.argv[1:]]


def _drop_unfinished(folder: Path) -> None:
    """Remove hidden files: drafts of single files that a kill left half-written, which nothing names."""
    for path in [*folder.rglob(".*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    """Flush all of a draft to the disk, with the rights that new files have here (libraries write some for the owner only)."""
    mask = os.umask(0)
    os.umask(mask)
    for root, _, names in os.walk(folder):
        for name in names:
            (Path(root) / name).chmod(0o666 & ~mask)
            _sync(Path(root) / name)
        _sync(Path(root))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

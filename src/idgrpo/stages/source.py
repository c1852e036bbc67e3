"""What a stage was given: an artifact, a file or a plain folder, found by one rule and pinned by its content."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Union

from idgrpo.errors import ArtifactError, DataError
from idgrpo.records.digest import file_digest
from idgrpo.run.distributed import world_from_environment
from idgrpo.run.progress import tell
from idgrpo.store import KINDS
from idgrpo.store.artifact import Artifact
from idgrpo.store.manifest import InputEntry, content_digest, scan
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.records.record import Record

RECORD_FILES = {
    "cases": "cases.jsonl",
    "samples": "samples.jsonl",
    "pairs": "pairs.jsonl",
    "votes": "votes.jsonl",
    "preferences": "prefs.jsonl",
}
"""The file of each kind of artifact that holds its records; the other kinds hold weights or a report."""
FILE_ENDINGS = {".jsonl", ".json", ".csv", ".toml", ".txt", ".safetensors"}
FOLDERS = ("cases", "samples", "rm", "policy", "report")
"""Kinds that may also be given as a plain folder without a manifest."""


@dataclass(frozen=True)
class Source:
    """An input of a stage.

    `path` is a file, a plain folder, or the folder of `artifact`. `digest` is one of content. `media` is the digest of
    the photos and videos that its records name and that lie outside the store's immutable artifacts; None where there
    are none: such a file may be replaced behind the same path, and then the input is another one.
    """

    kind: str
    ref: str
    path: Path
    digest: str
    media: str | None = None
    artifact: Artifact | None = None

    @property
    def records(self) -> Path:
        """The file with the records, or the folder itself where a plain folder has no such file."""
        if self.artifact is not None:
            return self.artifact.file(RECORD_FILES[self.kind])
        file = self.path / RECORD_FILES[self.kind]
        return file if self.path.is_dir() and file.is_file() else self.path

    @property
    def name(self) -> str:
        """A name for what is made from it: the artifact's, or that of the file or folder."""
        return self.artifact.name if self.artifact is not None else self.path.stem

    @property
    def entry(self) -> InputEntry:
        """What a manifest says of it."""
        return InputEntry(ref=self.ref, digest=self.digest)


Given = Union[str, Path, Artifact, Source, None]  # noqa: UP007 - the names are evaluated at run time
"""How a caller names an input: a reference, a path, an artifact, a source found before, or None for the newest."""


def listed(given: "Given | Sequence[Given]") -> list[Given]:
    """Give the inputs that were named, one or several; nothing named is one input: the newest."""
    if given is None or isinstance(given, str | Path | Artifact | Source):
        return [given]
    return list(given) or [None]


def untuned(artifact: Artifact) -> bool:
    """Tell whether samples were made without a tuned policy."""
    return "policy" not in artifact.manifest.inputs


def find(store: Store, kind: str, given: Given = None, *, bases_only: bool = False) -> Source:
    """Find an input of a kind and pin it.

    Nothing given means the newest artifact of the kind, and says which that is; `bases_only` leaves samples of tuned
    policies out then, and a reward model at chance is passed over for one that is not. Newest is what was last made, or
    found again by the command that makes it. An existing file or folder is meant before a reference, except
    that a bare kind (`rm`, `cases`) is always a reference: write `./rm` for a folder of that name.

    Raises:
        DataError: the text is a path and nothing is there, or what is there cannot be of this kind.
        ArtifactError: the reference names no artifact, or a damaged one, or one of another kind.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, Artifact) and given.kind != kind:
        raise ArtifactError(
            f"{given.ref} is a {given.kind} artifact, a {kind} artifact is needed here", fix="`idgrpo artifacts list`"
        )
    if given is None:
        return _of_artifact(store, kind, _newest(store, kind, bases_only=bases_only))
    if isinstance(given, Artifact):
        return _of_artifact(store, kind, given)
    if not str(given).strip():
        raise DataError(f"an empty text names no {kind}", fix=f"give a file of {kind}, or a reference of the store")
    text, path = str(given), Path(given).expanduser()
    is_reference = isinstance(given, str) and text in KINDS
    if not is_reference and path.is_file():
        return _of_file(store, kind, path.resolve())
    if not is_reference and path.is_dir() and not (path / "manifest.json").is_file():
        return _of_folder(store, kind, path.resolve())
    if not path.is_dir() and _looks_like_a_path(given):
        raise DataError(
            f"{text}: there is no such file or folder", fix=f"give a file of {kind}, or a reference of the store"
        )
    return _of_artifact(store, kind, _newest(store, kind) if text == kind else store.resolve(text, kind=kind))


def _newest(store: Store, kind: str, *, bases_only: bool = False) -> Artifact:
    """Give the newest artifact of a kind and say which it is; ArtifactError names the command that makes one."""
    newest = store.newest(kind)
    taken = store.newest(kind, untuned) if bases_only else store.newest(kind, _above_chance) or newest
    if taken is None and newest is not None:
        raise ArtifactError(
            f"all {kind} in {store.root} were made by tuned policies, which are not taken unasked",
            fix=f"name them, such as {kind}@v1, or sample a base: idgrpo sample --base NAME",
        )
    taken = taken or store.resolve(kind, kind=kind)
    if world_from_environment(dict(os.environ)).is_main:
        tell(f"{kind}: {taken.ref}, the newest{' of a base without a policy' if bases_only else ''}")
        if newest is not None and not _above_chance(newest):
            passed_over = "is passed over" if taken.ref != newest.ref else "is the newest reward model"
            tell(f"warning: {newest.ref} {passed_over}: on held-out pairs it is not above chance")
    return taken


def _above_chance(artifact: Artifact) -> bool:
    """Tell whether an artifact is no reward model that fails its held-out pairs."""
    return not artifact.manifest.metrics.get("at_chance")


def _looks_like_a_path(given: str | Path) -> bool:
    if isinstance(given, Path) or given.startswith((".", "/", "~")) or Path(given).suffix.lower() in FILE_ENDINGS:
        return True
    first, slash, _ = given.partition("/")
    return bool(slash) and first not in KINDS


def _of_artifact(store: Store, kind: str, artifact: Artifact) -> Source:
    return _with_media(store, Source(kind, artifact.ref, artifact.path, artifact.digest, artifact=artifact))


def _of_file(store: Store, kind: str, path: Path) -> Source:
    if kind not in RECORD_FILES:
        raise DataError(
            f"{path} is a file, a {kind} is a folder", fix=f"give a folder, or a reference such as {kind}@v1"
        )
    return _with_media(store, Source(kind, str(path), path, _digest_of_file(path)))


def _of_folder(store: Store, kind: str, path: Path) -> Source:
    has_records = kind in RECORD_FILES and (path / RECORD_FILES[kind]).is_file()
    if kind not in FOLDERS and not has_records:
        raise DataError(
            f"{path} holds no {RECORD_FILES[kind]}", fix=f"give a file of {kind}, or a reference of the store"
        )
    if has_records:
        return _with_media(store, Source(kind, str(path), path, _digest_of_file(path / RECORD_FILES[kind])))
    return Source(kind, str(path), path, content_digest(scan(path, file_digest)))


def _digest_of_file(path: Path) -> str:
    return "sha256:" + file_digest(path)


def _with_media(store: Store, source: Source) -> Source:
    """Add the digest of the media that may change behind their paths."""
    if source.kind not in RECORD_FILES or source.kind == "votes":
        return source
    inside = str(store.root / "artifacts") + "/"
    paths = {path for record in _records(source) for path in record.media_paths() if not path.startswith(inside)}
    return replace(source, media=_digest_of_files(paths)) if paths else source


def _records(source: Source) -> Iterable["Record"]:
    """Read records for their paths; lines that are no records are told by the stage that reads them."""
    from idgrpo.records.cases import read_cases
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.models import Case, Pair, Preference, Sample

    if source.kind == "cases":
        return read_cases(source.records)
    models: dict[str, type[Record]] = {"cases": Case, "samples": Sample, "pairs": Pair, "preferences": Preference}
    return read_records(source.records, models[source.kind], skip_invalid=lambda line: None)


def _digest_of_files(paths: set[str]) -> str:
    """Hash the contents in the order of the paths; what is missing counts as such, and is told by the stage that needs it."""
    digest = hashlib.sha256()
    for path in map(Path, sorted(paths)):
        digest.update(((file_digest(path) if path.is_file() else "missing") + "\n").encode())
    return "sha256:" + digest.hexdigest()

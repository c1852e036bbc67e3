"""Where weights are on this machine, and reading them with errors that people understand."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idgrpo.errors import ArtifactError, IdgrpoError
from idgrpo.records.digest import files_digest
from idgrpo.records.document import parse_json

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_ENV = "IDGRPO_WEIGHTS"
"""Folder with copies of hub repositories as `<owner>/<name>` or `<name>`; looked at before the hub's own cache."""


@contextmanager
def reading_weights(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while weights are read into an ArtifactError that names the file."""
    try:
        yield
    except (IdgrpoError, MemoryError):
        raise
    except Exception as error:  # libraries raise anything here: SafetensorError, UnpicklingError, OSError, KeyError
        if type(error).__name__ == "OutOfMemoryError":
            raise
        reason = str(error).strip().splitlines()
        raise ArtifactError(
            f"weights at {path} cannot be read: {type(error).__name__}: {reason[0][:300] if reason else ''}",
            fix="the file is damaged or not what its name says; get it again",
        ) from error


def read_finite(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file. Raises ArtifactError when it is damaged or holds NaN or infinity."""
    from safetensors.torch import load_file

    with reading_weights(path):
        state = load_file(path)
    refuse_not_finite(state, path)
    return state


def refuse_not_finite(state: "Mapping[str, Tensor]", path: Path) -> None:
    """Raise ArtifactError that names the first weight of a file that is not finite."""
    from idgrpo.bases.finite import first_not_finite

    name = first_not_finite(state)
    if name is not None:
        raise ArtifactError(
            f"weights at {path}: {name} is not finite (NaN or infinity)",
            fix="the file is damaged, or what was trained has diverged; use an earlier one",
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a component. Raises ArtifactError when it is missing, damaged or no table."""
    path = folder / "config.json"
    with reading_weights(path):
        values = parse_json(path.read_text(encoding="utf-8-sig"))
        if not isinstance(values, dict):
            raise TypeError(f"a table is expected, not a {type(values).__name__}")
    return values


def locate(source: str, revision: str | None = None, parts: Sequence[str] = ()) -> Path | None:
    """Find a source on this machine without any network; None when it is not there.

    `package:<folder>` is inside idgrpo; `hub:<owner>/<name>[/<file pattern>]` is in $IDGRPO_WEIGHTS or the hub's cache;
    anything else is a path. A hub source with a file pattern gives the file, or the folder when several shards match.
    With a revision only the hub's cache counts: a copy elsewhere does not say which revision it is. parts: the component
    folders that are needed of a repository; what else it holds may have been left out of the download.
    """
    kind, _, rest = source.partition(":")
    if kind == "package":
        import idgrpo

        path = Path(idgrpo.__file__).parent / rest
    elif kind == "hub":
        owner, name, *pattern = rest.split("/")
        wanted = ["/".join(pattern)] if pattern else [f"{part}/*" for part in parts]
        folder = _hub_folder(f"{owner}/{name}", revision, wanted)
        if folder is None:
            return None
        if not pattern:
            return folder
        files = sorted(folder.glob("/".join(pattern)))
        if not files:
            return None
        return files[0] if len(files) == 1 else folder
    else:
        path = Path(source)
    return path if path.exists() else None


def _hub_folder(repository: str, revision: str | None, patterns: Sequence[str]) -> Path | None:
    """Find the folder of a hub repository on this machine.

    Newer hub libraries know which files a repository has, and take a snapshot without some of them for incomplete unless
    patterns say what is needed.
    """
    root = os.environ.get(WEIGHTS_ENV) if revision is None else None
    for candidate in (Path(root) / repository, Path(root) / repository.split("/")[1]) if root else ():
        if candidate.is_dir():
            return candidate
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository, revision=revision, local_files_only=True, allow_patterns=list(patterns) or None
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError, OSError):
        return None


def weights_digest(paths: list[Path]) -> str:
    """Give a digest of what weight files and folders hold: names inside the folders and contents, whatever the size.

    Neither the place nor the name of a file or folder in `paths` counts, so that a hub snapshot, its links followed,
    and a copy of it are the same weights. Hidden files are download tools' own and do not count.
    """
    files: list[tuple[str, Path]] = []
    for index, root in enumerate(paths):
        if root.is_file():
            files.append((f"{index}", root))
            continue
        inside = [(path.relative_to(root), path) for path in root.rglob("*") if path.is_file()]
        files += [(f"{index}/{name.as_posix()}", path) for name, path in inside if not _is_hidden(name)]
    return files_digest(files)


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def snapshot_commit(path: Path) -> str | None:
    """Give the commit of a hub snapshot from its path (`.../snapshots/<commit>/...`), or None for other folders."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else None


def sort_header(path: Path, extra: Mapping[str, str] | None = None) -> None:
    """Rewrite a safetensors file with its metadata in sorted order: the library writes it in random order, and then equal
    adapters would have different digests. extra: metadata to add.

    Layout: 8 bytes length (little endian), JSON header padded with spaces to a multiple of 8, data.
    """
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = parse_json(content[8:end])
    if metadata := header.get("__metadata__", {}) | dict(extra or {}):
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])

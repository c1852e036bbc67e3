"""The manifest of an artifact: what is in it, what it was made from, by which command, where and when."""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from idgrpo.records.digest import sha256_of

SCHEMA = 1


class FileEntry(BaseModel):
    """A file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size_bytes: int
    sha256: str


class InputEntry(BaseModel):
    """An input: an artifact's reference and digest, or a file's path and digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ref: str
    digest: str


class Manifest(BaseModel):
    """Written last, so an artifact without one does not exist.

    `timed` names files that hold measured times, such as a run's metrics, or the command that was typed, such as a report's page:
    they are hashed like all others, but the digest does not cover them, so that the same work done twice has the same digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = SCHEMA
    kind: str
    name: str
    version: int
    digest: str
    files: dict[str, FileEntry]
    timed: tuple[str, ...] = ()
    inputs: dict[str, InputEntry]
    config: dict[str, Any]
    command: list[str]
    code_version: str
    environment: dict[str, str]
    metrics: dict[str, Any]
    created_utc: str
    seconds: float
    seal: str = ""

    def sealed(self) -> "Manifest":
        """Return a copy that carries the hash of everything else in it."""
        return self.model_copy(update={"seal": self.expected_seal()})

    def expected_seal(self) -> str:
        """Hash all fields but the seal."""
        left_out = {"seal"} if self.timed else {"seal", "timed"}  # manifests of older versions have no `timed`
        text = canonical(self.model_dump(mode="json", exclude=left_out))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def scan(folder: Path, digest: Callable[[Path], str] = sha256_of) -> dict[str, FileEntry]:
    """List the files under a folder by relative path, with size and hash; the manifest itself is left out."""
    entries = {}
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root) / name
            if path != folder / "manifest.json":
                entries[path.relative_to(folder).as_posix()] = FileEntry(
                    size_bytes=path.stat().st_size, sha256=digest(path)
                )
    return entries


def content_digest(files: dict[str, FileEntry], apart: Collection[str] = ()) -> str:
    """Hash names and contents of all files but those `apart`: equal digests mean equal artifacts."""
    lines = "".join(f"{entry.sha256}  {name}\n" for name, entry in sorted(files.items()) if name not in apart)
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def canonical(config: Any) -> str:
    """Write a configuration as one comparable line."""
    return json.dumps(config, sort_keys=True, default=str)


def environment() -> dict[str, str]:
    """Describe interpreter, platform and the versions of libraries already imported."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("torch", "diffusers", "transformers", "peft", "deepspeed", "av"):
        module = sys.modules.get(name)
        if module is not None:
            found[name] = str(getattr(module, "__version__", "?"))
    return found

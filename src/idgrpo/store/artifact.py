"""One published artifact."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from idgrpo.errors import ArtifactError
from idgrpo.records.digest import sha256_of
from idgrpo.store.manifest import Manifest

HASHED_AT_OPEN_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Artifact:
    """An immutable version of something; `path` is its folder."""

    kind: str
    name: str
    version: int
    path: Path

    @property
    def ref(self) -> str:
        """The reference that names exactly this version, such as `rm/base@v3`."""
        return f"{self.kind}/{self.name}@v{self.version}"

    @cached_property
    def manifest(self) -> Manifest:
        path = self.path / "manifest.json"
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise ArtifactError(
                f"{self.ref}: {path} is missing", fix="`idgrpo artifacts list` shows what is there"
            ) from None
        except ValueError as error:
            raise ArtifactError(f"{self.ref}: {path} is damaged ({str(error).splitlines()[0]})") from None
        if manifest.seal != manifest.expected_seal():
            raise ArtifactError(
                f"{self.ref}: {path} has been changed since it was published", fix="restore it from a copy"
            )
        return manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def file(self, name: str) -> Path:
        """Return the path of one of its files; ArtifactError when it is not part of the artifact."""
        if name not in self.manifest.files:
            some = ", ".join(list(self.manifest.files)[:8])
            raise ArtifactError(f"{self.ref} has no file {name} (it has {some} ..)")
        return self.path / name

    def verify(self, *, every_byte: bool = True) -> None:
        """Check sizes of all files and their hashes.

        With `every_byte` off, media in sub-folders are hashed only up to 64 MiB, small files first; records, settings and
        weights, which lie at the top, always are. Raises ArtifactError naming the first file that is missing or changed.
        """
        budget = HASHED_AT_OPEN_BYTES
        for name, entry in sorted(self.manifest.files.items(), key=lambda item: ("/" in item[0], item[1].size_bytes)):
            path = self.path / name
            if not path.is_file():
                raise ArtifactError(f"{self.ref} is damaged: {name} is missing", fix=self._remedy())
            size = path.stat().st_size
            if size != entry.size_bytes:
                raise ArtifactError(
                    f"{self.ref} is damaged: {name} has {size} bytes, {entry.size_bytes} were published",
                    fix=self._remedy(),
                )
            is_media = "/" in name
            budget -= size if is_media else 0
            if (every_byte or not is_media or budget >= 0) and sha256_of(path) != entry.sha256:
                raise ArtifactError(f"{self.ref} is damaged: the content of {name} has changed", fix=self._remedy())

    def _remedy(self) -> str:
        return f"restore {self.path} from a copy, or make it again: {' '.join(self.manifest.command)} --force"

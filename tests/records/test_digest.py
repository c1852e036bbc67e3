"""Digests are of content: a change is seen whatever the size, and what did not change is not read twice."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from idgrpo.bases.weights import weights_digest
from idgrpo.records import digest
from idgrpo.records.digest import file_digest, sha256_of
from idgrpo.reward.checkpoint import checkpoint_digest

MIB = 2**20
OLD_S = 1_700_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Point the cache to a fresh folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "idgrpo" / "digests"


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """Count the files that are read as a whole."""
    seen: list[Path] = []

    def counted(path: Path) -> str:
        seen.append(path)
        return sha256_of(path)

    monkeypatch.setattr(digest, "sha256_of", counted)
    return seen


def large(path: Path, first: bytes = b"a", size: int = 2 * MIB, time_s: float = OLD_S) -> Path:
    """Write a file of this size, nearly all holes, last changed at `time_s`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(first)
        file.truncate(size)
    os.utime(path, (time_s, time_s))
    return path


@pytest.mark.parametrize("size", [0, 5, 3 * MIB])
def test_a_digest_is_the_sha256_of_the_content(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256_of(path) == file_digest(path) == file_digest(path) == expected


@pytest.mark.parametrize("size", [33 * MIB, 65 * MIB])
def test_a_changed_large_weight_file_changes_every_digest_of_weights(tmp_path, size):
    path = large(tmp_path / "vlm" / "model.safetensors", b"a", size)
    before = checkpoint_digest(path.parent), weights_digest([path.parent]), weights_digest([path])
    large(path, b"b", size, OLD_S + 1)
    after = checkpoint_digest(path.parent), weights_digest([path.parent]), weights_digest([path])
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_weights_are_their_content_not_their_folder(tmp_path):
    plain = large(tmp_path / "mine" / "model.safetensors").parent
    (plain / "config.json").write_text("{}")
    snapshot = tmp_path / "models--x" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for path in plain.iterdir():
        blob = tmp_path / "models--x" / "blobs" / path.name[::-1]
        blob.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    (snapshot / ".cache").mkdir()
    (snapshot / ".cache" / "download.lock").write_text("now")
    for of in (checkpoint_digest, lambda folder: weights_digest([folder])):
        assert of(plain) == of(snapshot)
    renamed = plain / "other.safetensors"
    before = weights_digest([plain])
    (plain / "model.safetensors").rename(renamed)
    assert weights_digest([plain]) != before


def test_a_large_file_is_read_once_until_it_changes(tmp_path, reads, cache):
    path = large(tmp_path / "weights")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert file_digest(path) == file_digest(link) == file_digest(path)
    assert len(reads) == 1
    large(path, b"b", time_s=OLD_S + 1)
    assert file_digest(path) == sha256_of(path)
    assert len(reads) == 2 and len(list(cache.iterdir())) == 1


def test_a_change_behind_an_old_time_is_seen(tmp_path):
    path = large(tmp_path / "weights")
    before = file_digest(path)
    time.sleep(0.02)
    assert file_digest(large(path, b"b")) != before
    other = large(tmp_path / "other", b"c")
    os.replace(other, path)
    assert file_digest(path) == sha256_of(path)


def test_young_and_small_files_are_not_remembered(tmp_path, reads, cache):
    young = large(tmp_path / "young", time_s=time.time())
    small = large(tmp_path / "small", size=MIB - 1)
    for _ in range(2):
        file_digest(young), file_digest(small)
    assert len(reads) == 4 and not cache.exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"state": 3, "sha256": 4}', '{"sha256": "' + "0" * 64 + '"}']
)
def test_a_damaged_memory_is_not_believed(tmp_path, cache, content):
    path = large(tmp_path / "weights")
    expected = file_digest(path)
    (entry,) = cache.iterdir()
    entry.write_text(content)
    assert file_digest(path) == expected


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    path = large(tmp_path / "weights")
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder is wanted")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert file_digest(path) == sha256_of(path)


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match="missing"):
        file_digest(tmp_path / "missing")

"""A full disk in every stage: exit 6, inputs and artifacts as they were, no draft left, and the same command works later."""

import errno
import os
import resource
import signal
from contextlib import contextmanager

import pytest
from tests.e2e.place import STAGES

# What a file may hold at most: every stage writes something larger; the greater sizes are met later in the stage.
SIZES_BYTES = {"train-rm": (2000, 100_000), "train-policy": (2000, 8192), "sample": (2000, 10_000)}
SAID = "the disk is full"


@contextmanager
def small_files(size_bytes: int):
    """Let the system refuse to write beyond a size, as a full disk does: any writer in the process meets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_meets_a_full_disk_exits_6_and_works_when_there_is_space(stage, place, monkeypatch):
    before, words = place.results(stage), place.words(stage, "--force")
    for size_bytes in SIZES_BYTES.get(stage, (2000,)):
        with small_files(size_bytes):
            place.refuses(words, 6, SAID)
        assert place.results(stage) == before
    for call in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, no_space)
            place.refuses(words, 6, SAID)
        assert place.results(stage) == before
    place.works(words)
    assert len(place.results(stage)) == len(before) + 1


def test_a_tag_on_a_full_disk_leaves_the_tags_as_they_were(place, capsys):
    from idgrpo.cli.main import run

    store = ["--store", str(place.store.root)]
    assert run(["artifacts", "tag", "rm", "best", *store]) == 0
    before = place.files()
    with small_files(10):
        code = run(["artifacts", "tag", "rm", "newest", *store])
    assert code == 6 and SAID in capsys.readouterr().err
    assert {name: place.files()[name] for name in before} == before
    assert run(["artifacts", "show", "rm:best", *store]) == 0
    assert run(["artifacts", "tag", "rm", "newest", *store]) == 0

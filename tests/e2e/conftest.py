"""A small world on disk, made once: cases, clips, preferences, and a store with an artifact of most kinds."""

import shutil
from pathlib import Path

import pytest
from tests.e2e.place import Place, publish_files, write_files

from idgrpo.cli.main import run


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Make the world; the stages themselves make votes, reward model, policy and report."""
    place = Place(tmp_path_factory.mktemp("e2e") / "world")
    place.root.mkdir()
    write_files(place.root)
    publish_files(place)
    for stage in ("annotate", "train-rm", "train-policy", "eval"):
        assert run([*place.words(stage, name=None), "--quiet"]) == 0
    shutil.rmtree(place.store.root / "runs")
    shutil.rmtree(place.store.root / "cache")
    return place.root


@pytest.fixture
def place(world, tmp_path, capsys, monkeypatch) -> Place:
    """Give a copy of the world that a test may damage, and stand in an empty folder."""
    shutil.copytree(world, tmp_path / "world")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("IDGRPO_STORE", raising=False)
    return Place(tmp_path / "world", capsys)

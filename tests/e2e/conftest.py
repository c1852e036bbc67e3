"""A small world on disk, made once: cases, clips, preferences, and a store with an artifact of most kinds."""

import shutil
from pathlib import Path

import pytest
from tests.e2e.place import Place

from idgrpo.cli.main import run

NUM_CASES = 3
SPLITS = ("train", "validation", "test")


def _write_files(root: Path) -> None:
    """Write cases, true clips, clips of the wrong people, and two preferences a case, one split each."""
    from idgrpo.records.jsonl import write_records
    from idgrpo.records.models import Preference
    from idgrpo.tinyworld.cases import make_cases, write_cases, write_true_samples

    samples = write_true_samples(root, write_cases(root, make_cases(NUM_CASES, seed=5)))
    wrong = [
        sample.model_copy(update={"id": f"{sample.case_id}-wrong", "video": samples[index - 1].video})
        for index, sample in enumerate(samples)
    ]
    write_records(root / "wrong.jsonl", wrong)
    write_records(
        root / "prefs.jsonl",
        [
            Preference(
                pair_id=f"{true.case_id}-{label}",
                **true.model_dump(include={"case_id", "prompt"}),
                references=true.references,
                video_a=(true if label == "a" else other).video,
                video_b=(other if label == "a" else true).video,
                label=label,
                source="synthetic",
                split=split,
            )
            for true, other, split in zip(samples, wrong, SPLITS, strict=True)
            for label in ("a", "b")
        ],
    )


def _publish_files(place: Place) -> None:
    """Publish what the files hold, clips beside their records, so that every stage can be fed from the store."""
    from idgrpo.records.jsonl import read_records, write_records
    from idgrpo.records.models import Case, Preference, Sample

    with place.store.publish("cases", "world", inputs={}, config={}) as draft:
        write_records(draft.path / "cases.jsonl", read_records(place.root / "cases.jsonl", Case))
    with place.store.publish("preferences", "pairs", inputs={}, config={}) as draft:
        write_records(draft.path / "prefs.jsonl", read_records(place.root / "prefs.jsonl", Preference))
    for name in ("wrong", "samples"):
        with place.store.publish("samples", name, inputs={}, config={}) as draft:
            (draft.path / "videos").mkdir()
            records = []
            for sample in read_records(place.root / f"{name}.jsonl", Sample):
                clip = shutil.copyfile(sample.video, draft.path / "videos" / f"{sample.id}.mp4")
                records.append(sample.model_copy(update={"video": str(clip)}))
            write_records(draft.path / "samples.jsonl", records)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Make the world; the stages themselves make votes, reward model, policy and report."""
    place = Place(tmp_path_factory.mktemp("e2e") / "world")
    place.root.mkdir()
    _write_files(place.root)
    _publish_files(place)
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

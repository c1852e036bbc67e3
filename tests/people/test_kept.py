"""What a finder found is asked for once: by pixels, weights and settings; `distort` and `eval` share it."""

import json
import shutil

import numpy as np
import pytest
import torch

from idgrpo.cli.main import run
from idgrpo.errors import DataError
from idgrpo.people.contract import Detection, Levels, fingerprint_of
from idgrpo.people.kept import KeptFinder
from idgrpo.tinyworld.finder import TinyFinder


class Planted:
    """Finds one person in each second frame, and counts how often it is asked."""

    covers, levels = "person", Levels(0.8, 0.3)

    def __init__(self, weight: float = 1.0, known: bool = True):
        self.weight, self.known, self.asked = weight, known, 0

    def fingerprint(self) -> str:
        return f"{self.weight}" if self.known else f"{torch.rand(())}"

    def find(self, clip):
        self.asked += 1
        look = np.full(4, self.weight, np.float32)
        first = Detection(0, (1.0, 2.0, 3.5, 4.0), 0.9, look, np.eye(8, dtype=bool), np.arange(10.0).reshape(5, 2))
        return [[first, Detection(0, (0.0, 0.0, 1.0, 1.0), 0.1)] if frame == 0 else [] for frame in range(len(clip))]

    def embed_reference(self, image):
        self.asked += 1
        if image.sum() == 0:
            raise DataError("nobody")
        return np.full(4, self.weight, np.float32)


CLIP = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)


def same(first, second) -> bool:
    pairs = [(a, b) for left, right in zip(first, second, strict=True) for a, b in zip(left, right, strict=True)]
    fields = ("embedding", "mask", "landmarks")
    return all(
        (a.frame, a.box, a.score) == (b.frame, b.box, b.score)
        and all(
            np.array_equal(getattr(a, f), getattr(b, f)) and type(getattr(a, f)) is type(getattr(b, f)) for f in fields
        )
        for a, b in pairs
    )


def test_the_same_question_is_asked_once(tmp_path):
    finder = Planted()
    kept = KeptFinder(finder, tmp_path)
    answer = kept.find(CLIP)
    assert same(answer, Planted().find(CLIP)) and kept.covers == "person" and kept.levels == finder.levels
    again = KeptFinder(finder, tmp_path)
    assert same(again.find(CLIP), answer) and finder.asked == 1
    again.find(CLIP.flip(0))
    assert finder.asked == 2, "other pixels"
    assert np.array_equal(kept.embed_reference(CLIP[0]), again.embed_reference(CLIP[0])) and finder.asked == 3
    for _ in range(2):
        with pytest.raises(DataError):
            kept.embed_reference(torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert fingerprint_of(kept) == fingerprint_of(again) != fingerprint_of(KeptFinder(Planted(2.0), tmp_path))


def test_other_weights_and_unknown_ones_are_asked(tmp_path):
    KeptFinder(Planted(), tmp_path).find(CLIP)
    other, unknown = Planted(2.0), Planted(known=False)
    assert KeptFinder(other, tmp_path).find(CLIP)[0][0].embedding[0] == 2 and other.asked == 1
    for number in (1, 2):
        KeptFinder(unknown, tmp_path).find(CLIP)
        assert unknown.asked == number


def test_a_damaged_entry_is_asked_again(tmp_path):
    finder = Planted()
    KeptFinder(finder, tmp_path).find(CLIP)
    (entry,) = tmp_path.rglob("*.npz")
    for content in (b"", b"no archive", entry.read_bytes()[:200]):
        entry.write_bytes(content)
        before = finder.asked
        assert same(KeptFinder(finder, tmp_path).find(CLIP), Planted().find(CLIP)) and finder.asked == before + 1


def test_distort_and_eval_share_what_was_found(tmp_path, monkeypatch, capsys):
    from idgrpo.records.jsonl import write_records
    from idgrpo.tinyworld.cases import make_cases, write_cases, write_true_samples

    samples = write_true_samples(tmp_path, write_cases(tmp_path, make_cases(2, seed=5)))
    write_records(tmp_path / "samples.jsonl", [s.model_copy(update={"sampler": {}}) for s in samples])
    clips = []
    real = TinyFinder.find
    monkeypatch.setattr(TinyFinder, "find", lambda self, clip: clips.append(len(clip)) or real(self, clip))
    more = ["--store", f"{tmp_path}/store", "--json"]
    distort = [
        "distort",
        "--data",
        f"{tmp_path}/samples.jsonl",
        "--finder",
        "tiny",
        "--per-video",
        "1",
        "--mix",
        "drift",
        "--no-sheets",
    ]
    assert run([*distort, *more]) == 0
    assert clips.count(9) == 2
    capsys.readouterr()
    evaluate = ["eval", "--samples", f"base={tmp_path}/samples.jsonl", "--finder", "tiny", "--set", "scorers=[]"]
    assert run([*evaluate, *more]) == 0
    assert clips.count(9) == 2, "eval finds what distort has found"
    first = json.loads(capsys.readouterr().out)["means"]
    shutil.rmtree(tmp_path / "store/cache")
    assert run([*evaluate, *more, "--force"]) == 0
    assert clips.count(9) == 4 and json.loads(capsys.readouterr().out)["means"] == first

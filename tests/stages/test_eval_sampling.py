"""`idgrpo eval --cases --base --policy` makes what is missing, once, on the same cases and seeds for all."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "bases"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import tiny_checkpoints

from idgrpo.bases.load import load_base
from idgrpo.bases.lora import attach, save_adapter
from idgrpo.cli.main import run
from idgrpo.people.contract import Detection


class ColourFinder:
    """Finds one 'person' per frame, embedded by the mean colour."""

    def find(self, clip):
        box = (0.0, 0.0, float(clip.shape[3]), float(clip.shape[2]))
        return [[Detection(f, box, 0.9, self.embed_reference(image))] for f, image in enumerate(clip)]

    def embed_reference(self, image):
        colour = image.float().mean((1, 2)).numpy() - 60
        return colour / np.linalg.norm(colour)


@pytest.fixture
def world(tmp_path):
    """A random tiny base, an adapter that changes it, and two cases."""
    base = tiny_checkpoints.write_diffusers_base(tmp_path / "tiny-random", "phantom", tiny_checkpoints.TINY_VAE)
    loaded = load_base(str(base))
    for parameter in attach(loaded, rank=2):
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    save_adapter(loaded, tmp_path / "adapter")
    rows = [{"step": step, "reward_mean": step / 9} for step in range(9)]
    (tmp_path / "adapter" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = []
    for number in range(2):
        Image.fromarray(np.full((32, 32, 3), (200, 90 + 60 * number, 40), np.uint8)).save(tmp_path / f"{number}.png")
        references = [{"person": f"p{number}", "images": [f"{number}.png"]}]
        lines.append({"id": f"case-{number}", "prompt": "a man walks", "references": references})
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_missing_samples_are_made_once(world, capsys):
    finder = f"{ColourFinder.__module__}:ColourFinder"
    arguments = ["eval", "--store", world / "store", "--cases", world / "cases.jsonl", "--base", world / "tiny-random"]
    arguments += ["--policy", world / "adapter", "--finder", finder, "--sample-set", "sampler.num_steps=2"]
    arguments += ["--set", "statistics.num_resamples=300", "--json"]

    assert run([*map(str, arguments), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["variants"] == {"base": 0, "tuned": 0}
    assert run(list(map(str, arguments))) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["comparisons"]["tuned"]["sharpness"]["difference"]["num_cases"] == 2
    assert document["comparisons"]["tuned"]["sharpness"]["difference"]["value"] != 0
    page = Path(document["report"]).read_text()
    assert "reward mean" in page and "<polyline" in page  # the curves of the run travel with its policy
    names = sorted(p.name for p in (world / "store" / "artifacts" / "samples").iterdir())
    assert names == ["tiny-random", "tiny-random-tuned"]

    assert run([*map(str, arguments), "--force"]) == 0
    capsys.readouterr()
    for name in names:
        versions = [p.name for p in (world / "store" / "artifacts" / "samples" / name).iterdir()]
        assert versions == ["v0001"]


def test_several_policies_are_several_variants(world, capsys):
    arguments = ["eval", "--store", world / "store", "--cases", world / "cases.jsonl", "--base", world / "tiny-random"]
    arguments += ["--policy", world / "adapter", "--policy", world / "adapter", "--dry-run", "--json"]
    assert run(list(map(str, arguments))) == 0
    assert json.loads(capsys.readouterr().out)["variants"] == {"base": 0, "tuned1": 0, "tuned2": 0}

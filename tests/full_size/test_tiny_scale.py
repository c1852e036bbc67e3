"""Every stage on narrow weights in the public on-disk formats, as bases of full size: encoders first, then the transformer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.full_size.weights import write_all

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_stage_runs_and_is_told(tmp_path):
    """`make full-size` in small: the same commands, one of them killed and resumed."""
    command = [sys.executable, "-m", "tests.full_size", "--folder", str(tmp_path), "--scale", "tiny"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    table = [line.split(" | ") for line in found.stdout.splitlines() if line.startswith("| ")]
    assert "train-policy vace (killed, resumed)" in found.stdout and len(table) == 14
    peaks = [float(row[2]) for row in table[2:]]  # above that of the libraries, which is most of it at this size
    assert min(peaks) >= 0 and max(peaks) > 0.05, peaks
    assert not (tmp_path / "weights").exists()


def test_clips_are_made_again_by_a_base_whose_transformer_comes_after_its_text_encoder(tmp_path):
    """Before, `distort --base vace` ended with a TypeError at the first clip: nobody had read the transformer."""
    from tests.full_size.__main__ import FINDER, write_inputs

    write_all(tmp_path / "weights", "tiny")
    write_inputs(tmp_path, "tiny")
    environment = os.environ | {
        "IDGRPO_WEIGHTS": str(tmp_path / "weights"),
        "IDGRPO_STORE": str(tmp_path / "store"),
        "IDGRPO_DTYPE": "bfloat16",
    }
    cases = str(tmp_path / "cases.jsonl")

    def call(*arguments: str) -> dict:
        command = [sys.executable, "-m", "idgrpo", *arguments, "--json"]
        found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
        return json.loads(found.stdout)

    call("sample", "--base", "vace", "--cases", cases, "--size", "32x32x5", "--steps", "1", "--name", "few")
    made = call(
        *(
            "distort",
            "--data",
            "samples/few",
            "--base",
            "vace",
            "--mix",
            "renoise=1",
            "--finder",
            FINDER,
            "--no-sheets",
        ),
        *("--sample-set", "sampler.num_steps=4", "--set", "strength.visible=0"),
    )
    assert made["pairs"] > 0

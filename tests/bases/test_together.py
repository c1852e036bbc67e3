"""One clip over two ranks: the same clips as one rank makes, one writer, a stop that reaches both."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from idgrpo.bases import together
from idgrpo.bases.contract import VideoSize
from idgrpo.bases.load import load_base
from idgrpo.bases.together import refuse_uneven
from idgrpo.cli.main import run
from idgrpo.errors import UsageError
from idgrpo.video.read import read_video

FEW = ("--steps", "2", "--guidance", "2", "--name", "few")


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def command(store: Path, base: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "idgrpo", "sample", "--base", base, "--store", str(store), *FEW, *arguments]


def sample(store: Path, base: str, *arguments: str) -> subprocess.CompletedProcess:
    words = [*command(store, base, *arguments), "--json"]
    return subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def clips(path: str) -> dict[str, torch.Tensor]:
    return {file.name: read_video(file).float() for file in sorted(Path(path, "videos").glob("*.mp4"))}


@pytest.mark.parametrize("base", ["tiny-phantom", "tiny-vace"])
def test_two_ranks_make_the_clips_of_one(tmp_path, base):
    assert run(["cases", "--num", "3", "--store", str(tmp_path / "one")]) == 0
    assert run(["cases", "--num", "3", "--store", str(tmp_path / "two")]) == 0
    alone, both = sample(tmp_path / "one", base), sample(tmp_path / "two", base, "--context-parallel", "2")
    assert both.returncode == 0, both.stderr
    assert alone.returncode == 0, alone.stderr
    one, two = clips(json.loads(alone.stdout)["path"]), clips(json.loads(both.stdout)["path"])
    assert one.keys() == two.keys() and len(one) == 3
    # Velocities within 1e-5: at most a pixel that lay between two grey levels falls to the other.
    assert all((one[name] - two[name]).abs().max() <= 1 and one[name].std() > 1 for name in one)
    assert len(list((tmp_path / "two" / "artifacts" / "samples").glob("*/v*"))) == 1


def test_a_stop_reaches_both_ranks_and_the_same_command_goes_on(tmp_path):
    assert run(["cases", "--num", "12", "--store", str(tmp_path)]) == 0
    words = ("--context-parallel", "2", "--steps", "40", "--batch-size", "1")
    process = subprocess.Popen(
        command(tmp_path, "tiny-phantom", *words), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 240
    while not list(tmp_path.glob("runs/sample-*/samples/videos/[!.]*.mp4")) and time.monotonic() < end:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    done = sample(tmp_path, "tiny-phantom", *words)
    assert done.returncode == 0 and json.loads(done.stdout)["num_samples"] == 12, done.stderr


def test_what_does_not_divide_is_refused_with_the_numbers():
    base = load_base("tiny-phantom")
    refuse_uneven(4, base.geometry, VideoSize(32, 32, 9), [1, 2], 2)
    with pytest.raises(UsageError, match=r"4 heads, \d+ tokens with 2 references do not divide over 3 ranks"):
        refuse_uneven(4, base.geometry, VideoSize(32, 32, 9), [2], 3)


def test_what_cannot_be_made_together_is_refused_by_a_plan_too(tmp_path, monkeypatch, capsys):
    assert run(["cases", "--num", "1", "--store", str(tmp_path)]) == 0
    command = ["sample", "--base", "tiny-phantom", "--store", str(tmp_path), "--size", "16x16x5", "--dry-run"]
    assert run([*command, "--context-parallel", "3"]) == 2
    assert "4 heads, 20 tokens with 2 references do not divide over 3 ranks" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert run([*command, "--context-parallel", "2"]) == 2
    assert "the job has 4 processes, 2 are to make each clip together" in capsys.readouterr().err


class Failing(torch.nn.Module):
    def forward(self, hidden_states):
        raise MemoryError


def test_an_error_within_a_call_of_the_transformer_waits_for_no_other_rank(monkeypatch):
    said: list = []
    world = SimpleNamespace(size=2, rank=0, gather=lambda value: said.append(value) or [value])
    monkeypatch.setattr(together, "_split", lambda base, world: None)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, source: None)
    base = SimpleNamespace(transformer=Failing())
    with pytest.raises(MemoryError), together.leading(base, world):
        base.transformer(hidden_states=torch.zeros(1))
    assert said[0] == together.LOAD and len(said) == 2, "the others are in the call, not listening"

    def lost(value):
        if value != together.LOAD:
            raise RuntimeError("Connection reset by peer")

    base, world.gather = SimpleNamespace(transformer=Failing()), lost
    with pytest.raises(ValueError, match="ours"), together.leading(base, world):
        raise ValueError("ours")


def test_clips_are_dealt_out_or_made_together_not_both(tmp_path, capsys):
    words = ["sample", "--base", "tiny-phantom", "--store", str(tmp_path), "--context-parallel", "2"]
    for more, said in ((["--nproc", "2"], "--nproc deals clips out"), (["--share"], "--share deals whole clips out")):
        assert run([*words, *more]) == 2
        assert said in capsys.readouterr().err

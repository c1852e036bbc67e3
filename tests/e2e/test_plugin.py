"""The example package is installed and every part of it used, beside a broken package that stops nobody."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from idgrpo.plugins import GROUPS

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"
SCRIPT = """
import contextlib, io, json, sys
from idgrpo.cli.main import run

def call(*words, store=sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run([*words, "--store", store, "--json"] if store else [*words, "--json"])
    told[" ".join(words)[:40]] = [code, json.loads(out.getvalue() or "{}")]

told = {}
call("plugins", store=None)
call("cases", "--num", "4", "--seed", "5")
size = ["--set", "size.width=16", "--set", "size.height=16", "--set", "size.frames=3", "--set", "rollout.num_steps=4"]
call("train-policy", "--base", "patches", "--reward", "warmth", "--updates", "2", *size, "--set", "rollout.law=level",
     "--set", "loss.name=soft-clip", "--set", 'advantage.controls=["brightness"]', "--set", "group.num_cases=2",
     "--set", "group.size=4", "--set", "rollout.window.last=3", "--set", "lora.rank=2")
small = ["--cases", "cases", "--size", "32x32x5", "--num-per-case", "2"]
call("sample", "--base", "patches", *small)
call("sample", "--name", "tuned", "--policy", "policy", *small)
call("annotate", "--by", "judge", "--judge", "warmer", "--judge", "warmth", "--samples", "samples/patches",
     "--set", "aggregate.min_alpha=-1")
call("eval", "--samples", "base=samples/patches", "--samples", "tuned=samples/tuned", "--finder", "centre",
     "--reward", "warmth", "--set", "statistics.num_resamples=200")
call("sample", "--base", "tinyworld", "--name", "true")
call("distort", "--data", "samples/true", "--mix", "swap_middle=1", "--per-video", "2")
call("sample", "--base", "broken-bases", "--cases", "cases")
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, list]:
    """Install the example (and by hand a package that cannot be imported), then use every part in one process."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source")  # building leaves files beside the sources
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(folder / "site"), str(folder / "source")], check=True, timeout=120)
    broken = folder / "site" / "broken_parts-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-parts\nVersion: 1.0\n")
    names = [f"[{group}]\nbroken-{group.partition('.')[2]} = broken_parts:it\n" for group in GROUPS]
    (broken / "entry_points.txt").write_text("\n".join(names))
    (folder / "site" / "broken_parts.py").write_text("raise RuntimeError('half installed')\n")
    path = os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", SCRIPT, str(folder / "store")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def document(told: dict, begin: str, *, code: int = 0) -> dict:
    (found,) = (value for words, value in told.items() if words.startswith(begin))
    assert found[0] == code, found
    return found[1]


def test_parts_are_listed_and_broken_ones_with_the_reason(told):
    found = document(told, "plugins")["plugins"]
    ours = {plugin["group"]: plugin for plugin in found if plugin["package"] == "idgrpo-example 0.1.0"}
    assert set(ours) == set(GROUPS) and not any(plugin["problem"] for plugin in ours.values())
    broken = [plugin for plugin in found if plugin["package"] == "broken-parts 1.0"]
    assert len(broken) == len(GROUPS) and {p["problem"] for p in broken} == {"RuntimeError: half installed"}


def test_its_base_trains_with_grpo_by_its_own_reward_loss_law_and_control(told):
    metrics = document(told, "train-policy")["metrics"]
    assert metrics["updates"] == 2
    folder = Path(document(told, "train-policy")["path"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("advantage_explained_share" in row for row in rows)
    assert [row["grad_norm"] > 0 for row in rows if "grad_norm" in row] == [True, True]


def test_its_clips_are_sampled_judged_measured(told):
    assert document(told, "sample --base patches")["num_samples"] == 8
    assert document(told, "sample --name tuned")["base"] == "patches"
    assert {row["judge"] for row in document(told, "annotate")["judges"]} == {"warmer", "warmth"}
    report = document(told, "eval")
    assert report["finder"] == "centre" and {"steadiest", "reward"} <= set(report["means"]["base"])


def test_its_distortion_makes_pairs(told):
    assert document(told, "distort")["pairs"] > 0


def test_a_broken_part_that_is_asked_for_is_told_with_its_reason(told):
    error = document(told, "sample --base broken-bases", code=2)["error"]
    assert "RuntimeError: half installed" in error["message"] and "idgrpo plugins" in error["fix"]

"""Two processes train the same model as one, plain and with ZeRO 0 and 2, through the real command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from preferences import write_preferences
from safetensors.torch import load_file

from idgrpo.records.jsonl import write_records
from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.model import load_network

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1800)]
SETTINGS = [
    "mode=full",
    "log_every=1",
    "data.copies=0",  # with them the last update would not be full
    "full.epochs=1",
    "full.accumulation=2",
    "full.lora.rank=4",
    "full.lora.alpha=8",
    "full.lora.dropout=0",
    "full.rates.lora=1e-3",
    "full.rates.vision=1e-4",
    "full.rates.merger=1e-3",
    "full.rates.head=1e-2",
    "full.rates.token=1e-3",
]


def train(data: Path, vlm: Path, store: Path, *arguments: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Run `train-rm`; return the loss of each update and all weights."""
    command = [sys.executable, "-c", "from idgrpo.cli.main import main; main()", "train-rm", "--data", str(data)]
    command += ["--vlm", str(vlm), "--store", str(store), "--json", *arguments]
    command += [part for setting in SETTINGS for part in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = Path(json.loads(done.stdout)["path"])
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return losses, load_network(folder)[0].backbone.state_dict() | load_file(folder / "reward_head.safetensors")


def test_two_processes_equal_one(tiny_vlm, tmp_path) -> None:
    # 40 pairs leave 32 for training: full updates in every layout.
    data = tmp_path / "prefs.jsonl"
    write_records(data, write_preferences(tmp_path / "videos", 40))
    losses, weights = train(data, tiny_vlm, tmp_path / "one", "--set", "full.batch_pairs=2")
    before = load_backbone(tiny_vlm).state_dict()
    assert len(losses) == 8
    assert any(name in before and not torch.equal(value, before[name]) for name, value in weights.items())
    for name, zero in (("two", []), ("zero0", ["--zero", "0"]), ("zero2", ["--zero", "2"])):
        found = train(data, tiny_vlm, tmp_path / name, "--nproc", "2", "--set", "full.batch_pairs=1", *zero)
        assert found[0] == pytest.approx(losses, abs=1e-4), name
        assert found[1].keys() == weights.keys()
        for key, value in found[1].items():
            torch.testing.assert_close(
                value, weights[key], atol=2e-5, rtol=2e-3, msg=lambda text, n=name, k=key: f"{n} {k}: {text}"
            )


def test_a_bfloat16_backbone_trains_the_same_under_zero(tiny_vlm, tmp_path) -> None:
    data = tmp_path / "prefs.jsonl"
    write_records(data, write_preferences(tmp_path / "videos", 20))
    bf16 = ["--set", "full.bf16=true", "--set", "full.batch_pairs=2"]
    losses, weights = train(data, tiny_vlm, tmp_path / "plain", *bf16)
    assert len(losses) == 4
    for name, more in (
        ("one-0", ["--zero", "0"]),
        ("one-2", ["--zero", "2"]),
        ("two-2", ["--zero", "2", "--nproc", "2"]),
    ):
        more += ["--set", "full.batch_pairs=1"] if name == "two-2" else []
        found = train(data, tiny_vlm, tmp_path / name, *bf16, *more)
        assert found[0] == pytest.approx(losses, abs=2e-3), name
        assert found[1]["weight"].dtype == torch.float32
        torch.testing.assert_close(found[1]["weight"], weights["weight"], atol=2e-3, rtol=2e-2)

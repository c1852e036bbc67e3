"""The plan of `--dry-run --gpus N` against measured runs of one, two and four ranks on this machine's cores (gloo).

All weights of tiny-phantom are trained. Traffic is counted in every collective; seconds are those of rollout and update, and
the single rank's speed is what the prediction for the others reckons with.

    python -m pytest -s -m bench tests/bench/test_forecast.py
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from idgrpo.bases.entries import ENTRIES
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.cost import Machine, plan
from idgrpo.policy.forecast import load_of
from idgrpo.policy.recipes import merge, recipe

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
WORKER = Path(__file__).with_name("forecast_worker.py")
CHANGES = {
    "num_updates": 4,
    "group": {"num_cases": 4, "size": 4},
    "loss": {"micro_batch": 8},
    "kl": {"weight": 0.0},
    "preview": {"every": 0},
}
CONFIG = PolicyConfig.model_validate(merge(recipe("full", "tiny-phantom").model_dump(), CHANGES))


def measured(out: Path, ranks: int, zero: int) -> tuple[float, float]:
    """Train and give (seconds of an update, GiB a rank moved in it): medians after the first update."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changes = json.dumps(CHANGES | {"engine": {"zero": zero}})
    meeting = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common = os.environ | meeting | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": os.getcwd()}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(out), changes],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors.decode()[-3000:]
    rows = [json.loads((out / f"rows-{rank}.json").read_text())[1:] for rank in range(ranks)]
    slowest = median(max(row["seconds"] for row in update) for update in zip(*rows, strict=True))
    return slowest, median(row["gib"] for row in rows[0])


def test_predictions_against_one_two_and_four_ranks(tmp_path):
    load = load_of(ENTRIES["tiny-phantom"], CONFIG, 2)
    alone, _ = measured(tmp_path / "alone", 1, 0)
    samples = CONFIG.group.num_cases * CONFIG.group.size
    speed = samples * load.sample_tflop / alone  # TFLOP/s that one rank reaches here
    cores = len(os.sched_getaffinity(0))
    print(f"\n1 rank: {alone:.2f} s an update, {speed * 1e3:.1f} GFLOP/s; {cores} cores")
    for ranks, zero in ((2, 0), (4, 0), (2, 1), (2, 2), (4, 2), (2, 3), (4, 3)):
        machine = Machine(tflops=speed * min(1.0, cores / ranks), memory_gib=1e9, link_gb_s=1e9)
        config = CONFIG.model_copy(update={"engine": CONFIG.engine.model_copy(update={"zero": zero})})
        expected = plan(load, config, machine, ranks, zero, CONFIG.loss.micro_batch)
        seconds, gib = measured(tmp_path / f"{ranks}-{zero}", ranks, zero)
        print(
            f"| {ranks} ranks | ZeRO {zero} | seconds {expected.seconds:.2f} predicted, {seconds:.2f} measured "
            f"({seconds / expected.seconds:.2f}x) | traffic {expected.traffic_gib * 1024:.1f} MiB predicted, "
            f"{gib * 1024:.1f} measured ({gib / expected.traffic_gib:.2f}x) |"
        )
        assert gib == pytest.approx(expected.traffic_gib, rel=0.1)

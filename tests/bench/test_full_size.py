"""What one sample and one training step of the full-size bases cost. On a machine with an NVIDIA GPU of 24 GB or more:

    python -m pytest -q -s -m bench tests/bench/test_full_size.py

prints, with random weights at 240x416x33 and two references: seconds, peak GPU memory, and the share of the GPU's own
measured matrix-product peak. Without a GPU the same code runs on tiny bases, in the default tests.
"""

import json

import pytest
import torch
from tests.bench.full_size import TRAIN_SIZE, matmul_tflops, measure_sample, measure_update, random_base, two_people

from idgrpo.bases.contract import VideoSize

MAX_TRAINING_GIB = 24.0
NUM_STEPS = 25


def measure(name, device, size, num_steps, folder):
    """Measure a sample and an update of a base; gives rows with `share_of_peak`."""
    peak_tflops, base, case = matmul_tflops(device), random_base(name, device), two_people(folder)
    rows = {
        "sample": measure_sample(base, case, size, num_steps),
        "update": measure_update(base, case, size, folder / "run"),
    }
    for what, row in rows.items():
        row["share_of_peak"] = row["tflop"] / row["seconds"] / peak_tflops
        shown = {key: float(f"{value:.3g}") for key, value in row.items()}
        print(
            json.dumps(
                {"base": name, "what": what, "size": str(size), "peak_tflops": float(f"{peak_tflops:.3g}")} | shown
            )
        )
    return rows


@pytest.mark.bench
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["vace", "phantom"])
def test_full_size_on_this_gpu(name, tmp_path):
    rows = measure(name, "cuda", TRAIN_SIZE, NUM_STEPS, tmp_path)
    assert rows["update"]["peak_gib"] < MAX_TRAINING_GIB
    assert all(0.02 < row["share_of_peak"] < 1 for row in rows.values())


@pytest.mark.parametrize("name", ["vace", "phantom"])
def test_the_measurement_itself_at_tiny_size(name, tmp_path):
    rows = measure(name, "cpu", VideoSize(32, 32, 5), 3, tmp_path)
    assert all(row["seconds"] > 0 and 0 < row["share_of_peak"] < 1 for row in rows.values())
    assert rows["sample"]["tflop"] > rows["update"]["tflop"] / 100 > 0

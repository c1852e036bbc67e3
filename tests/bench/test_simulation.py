"""The memory that `--dry-run` tells, simulated: against the whole depth, and against the resident memory of a real process.

.venv/bin/python -m pytest -s -m bench tests/bench/test_simulation.py
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from idgrpo.bases.contract import VideoSize
from idgrpo.bases.entries import ENTRIES
from idgrpo.bases.inventory import configs_of_entry
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.forecast import forecast
from idgrpo.policy.recipes import recipe
from idgrpo.policy.simulation import parts_of, shallow, simulated_peaks

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
SIZE, SMALL = VideoSize(416, 240, 33), VideoSize(416, 240, 9)
BLOCKS = 4


def settings(base: str, recompute: str = "auto", micro_batch: int = 1) -> PolicyConfig:
    changed = recipe("default", base).model_dump()
    changed["engine"]["recompute"], changed["loss"]["micro_batch"] = recompute, micro_batch
    return PolicyConfig.model_validate(changed)


@pytest.mark.parametrize("base", ["vace", "phantom"])
def test_two_shallow_transformers_tell_of_the_whole_one(base):
    entry, (transformer, vae) = ENTRIES[base], configs_of_entry(ENTRIES[base])
    line = simulated_peaks(entry, transformer, vae, settings(base), SIZE, 2)
    whole = parts_of(entry, transformer, vae, settings(base), SIZE, 2).peaks()
    print(f"\n{base}: by the line {line}\n{base}: whole depth {whole}")
    for name, value in vars(whole).items():
        assert getattr(line, name) == pytest.approx(value, rel=0.02), name


@pytest.mark.parametrize("base", ["vace", "phantom"])
def test_training_with_a_reward_model_beside_it_fits_24_gib(base):
    """From process start: the encoders come and go before the transformer and the reward model (8 GiB) are read."""
    for recompute in ("on", "selective", "off"):
        for micro_batch in (1, 2, 4, 8):
            entry, config = ENTRIES[base], settings(base, recompute, micro_batch)
            peaks = simulated_peaks(entry, *configs_of_entry(entry), config, SIZE, 2)
            print(
                f"| {base} | {recompute} | {micro_batch} | {peaks.resident:.2f} | {peaks.rollout:.2f} | {peaks.replay:.2f} |"
            )
    config = recipe("default", base)
    config = config.model_copy(update={"plan": config.plan.model_copy(update={"memory_gib": 24.0})})
    found, load, _ = forecast(ENTRIES[base], config, 1, 2)
    print(
        f"{base}: {found.memory_gib:.1f} GiB with micro-batches of {found.micro_batch}; start {load.start_gib:.1f} GiB"
    )
    assert found.fits and found.micro_batch >= config.loss.micro_batch


def test_a_real_replay_takes_what_the_simulation_says():
    """Phantom's width, four blocks, random weights in bfloat16 on the CPU: a real replay in a process of its own."""
    entry, (transformer, vae) = ENTRIES["phantom"], configs_of_entry(ENTRIES["phantom"])
    told = parts_of(entry, shallow(transformer, BLOCKS, 1), vae, settings("phantom", "off"), SMALL, 2).peaks()
    # Large blocks go back to the system at once, so that resident memory is what is alive.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    found = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=True)
    measured = float(found.stdout.split()[-1])
    print(f"\nreplay above weights and gradients: simulated {told.replay:.3f} GiB, measured {measured:.3f} GiB")
    assert told.replay == pytest.approx(measured, rel=0.10)


def measure_replay() -> None:
    """Print the GiB by which resident memory rises in a replay, after one that has warmed up; runs as a process of its own."""
    import torch

    entry, (transformer, vae) = ENTRIES["phantom"], configs_of_entry(ENTRIES["phantom"])
    parts = parts_of(entry, shallow(transformer, BLOCKS, 1), vae, settings("phantom", "off"), SMALL, 2)
    parts.fill(torch.zeros_like)
    for _ in range(2):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        parts.replay()
    print((_status("VmHWM") - before) / 2**20)


def _status(name: str) -> int:
    """Read a figure of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    measure_replay()

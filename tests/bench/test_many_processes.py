"""How much faster two processes sample than one, each with one thread: `pytest -s -m bench tests/bench/test_many_processes.py`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3000)]
WORDS = ["sample", "--base", "tiny-phantom", "--num-per-case", "8", "--steps", "50", "--batch-size", "4"]


def sampled(store: Path, *words: str) -> tuple[float, float, str]:
    """Sample; give the seconds of the whole command, those from the first clip to the last, and the digest."""
    command = [sys.executable, "-m", "idgrpo", *WORDS, *words, "--store", str(store), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    first = last = 0.0
    made = 0
    while process.poll() is None:
        num = len(list(store.glob("runs/sample-*/samples/videos/[!.]*")))
        if num > made:
            first, last, made = first or time.monotonic(), time.monotonic(), num
        time.sleep(0.05)
    assert process.stdout is not None and process.returncode == 0
    return time.monotonic() - started, last - first, json.loads(process.stdout.read())["digest"]


def test_two_processes_sample_faster(tmp_path):
    cases = [sys.executable, "-m", "idgrpo", "cases", "--num", "16", "--store"]
    for name in ("one", "two"):
        subprocess.run([*cases, str(tmp_path / name), "--quiet"], check=True, stdout=subprocess.DEVNULL)
    one, made_by_one, digest = sampled(tmp_path / "one")
    two, made_by_two, other = sampled(tmp_path / "two", "--nproc", "2")
    load = os.getloadavg()[0]
    print(f"\none process: {one:.1f} s, {made_by_one:.1f} s from first to last clip")
    print(
        f"two processes: {two:.1f} s, {made_by_two:.1f} s; speed-up {one / two:.2f} in all, {made_by_one / made_by_two:.2f} while clips are made"
    )
    print(f"load of the machine at the end: {load:.1f}")
    assert digest == other

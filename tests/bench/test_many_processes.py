"""Two processes against one when they sample, and 64 callers of one scoring service:
`pytest -s -m bench tests/bench/test_many_processes.py`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3000)]
WORDS = ["sample", "--base", "tiny-phantom", "--num-per-case", "8", "--steps", "100", "--batch-size", "4"]


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


def test_sixty_four_callers_of_one_service(tmp_path):
    """Each asks ten times for a clip of its own; the service has 16 places, the others wait in line."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event, Thread

    import numpy as np
    from tests.reward.scoring import clips, untrained
    from tests.reward.tiny_vlm import write_tiny_vlm

    from idgrpo.reward.client import RewardClient
    from idgrpo.reward.service import listen, make_app, serve

    model = untrained(write_tiny_vlm(tmp_path / "vlm"))
    app, request = make_app([model], max_waiting=16), clips(1)
    expected, stop = model.score(*request), Event()
    with listen("127.0.0.1", 0) as listener:
        serving = Thread(target=serve, args=(app, listener, stop.is_set))
        serving.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def ask(_: int) -> list[float]:
            client, waits = RewardClient(url, attempts=2, first_wait_s=0.05), []
            for _ in range(10):
                began = time.monotonic()
                assert client.score(*request) == expected
                waits.append(time.monotonic() - began)
            return waits

        started = time.monotonic()
        with ThreadPoolExecutor(64) as callers:
            waits = np.concatenate(list(callers.map(ask, range(64))))
        seconds = time.monotonic() - started
        stop.set()
        serving.join(30)
    p50, p99 = np.quantile(waits, (0.5, 0.99))
    print(
        f"\n64 callers, {len(waits)} requests answered: p50 {p50:.2f} s, p99 {p99:.2f} s, {len(waits) / seconds:.0f} requests a second"
    )
    assert len(waits) == 640

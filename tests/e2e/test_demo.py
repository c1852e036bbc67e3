"""The demo through its real command line: it ends with figures and pages, and a kill anywhere changes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
COMMAND = [sys.executable, "-m", "idgrpo", "demo", "--quick", "--json"]
TIMELESS = (
    "base",
    "seed",
    "identity_base",
    "identity_tuned",
    "gain_relative",
    "ci95",
    "worst_tuned",
    "wrong_reference_tuned",
    "sharpness_tuned",
    "motion_tuned",
)


def figures(document: dict) -> dict:
    reward = {key: value for key, value in document["reward_model"].items() if key.startswith("rm_")}
    return {"reward": reward, "bases": [{key: row[key] for key in TIMELESS} for row in document["bases"]]}


def run_demo(out: Path) -> dict:
    done = subprocess.run([*COMMAND, "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_a_demo_killed_twice_ends_with_the_same_numbers(tmp_path):
    whole = run_demo(tmp_path / "whole")
    assert {row["base"] for row in whole["bases"]} == {"tiny-phantom", "tiny-vace"}
    page = Path(whole["report"])
    assert page.stat().st_size > 100_000 and "http://" not in page.read_text(encoding="utf-8").replace(
        "http://www.w3.org", ""
    )
    assert Path(whole["contact_sheet"]).is_file()
    took = whole["seconds"]["total"]
    out = tmp_path / "killed"
    for share in (0.35, 0.7):
        process = subprocess.Popen([*COMMAND, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(took * share * (0.5 if share > 0.5 else 1))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert figures(run_demo(out)) == figures(whole)
    again = time.monotonic()
    assert figures(run_demo(out)) == figures(whole)
    assert time.monotonic() - again < took / 2, "finished steps are skipped"

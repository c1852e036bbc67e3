"""The kill harness: a sample of it by default, all of it by `make test-hostile`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ("cases", "cases of a file", "distort", "annotate by oracle", "artifacts prune", "artifacts export", "page")


def run_harness(folder: Path, kills: int, *more: str) -> list[dict]:
    """Run it in a process of its own, which computes nothing and can be forked safely."""
    command = [sys.executable, "-m", "tests.hostile.kills", "--kills", str(kills), "--folder", str(folder), *more]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    rows = [json.loads(line) for line in (folder / "kills.jsonl").read_text().splitlines()]
    assert done.returncode == 0, done.stdout[-3000:]
    assert all(row["died"] and row["resumed"] for row in rows)
    return rows


def test_thirty_kills(tmp_path):
    rows = run_harness(tmp_path, 30, "--stages", ",".join(SAMPLE))
    assert len(rows) >= 30
    assert {row["how"] for row in rows} == {"change", "moment"}


@pytest.mark.hostile
@pytest.mark.timeout(14_400)
def test_a_thousand_kills(tmp_path):
    folder = Path(os.environ.get("IDGRPO_KILL_LOG", tmp_path))
    assert len(run_harness(folder, int(os.environ.get("IDGRPO_KILLS", "1000")))) >= 1

"""The exit code of a job of several ranks on this machine."""

import pytest

from idgrpo.run import distributed

RANKS = """
import os, sys, time
rank, plan = int(os.environ["RANK"]), sys.argv[1].split(",")
wait_s, end = plan[rank].split(":")
time.sleep(float(wait_s))
os.abort() if end == "abort" else sys.exit(int(end))
"""


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        ("0:0,0:0", 0),
        ("0:0,1:abort", 0),  # gloo's threads may abort a rank that leaves after the main one has told the result
        ("3:0,0:abort", 134),
        ("0:75,0.5:75", 75),
        ("5:0,0:3", 3),
    ],
)
def test_the_main_rank_tells_how_a_job_ended_unless_another_failed_before(monkeypatch, plan, code):
    monkeypatch.setattr(distributed, "ENTRY", RANKS)
    assert distributed.launch(2, [plan]) == code

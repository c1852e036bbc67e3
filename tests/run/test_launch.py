"""The exit code of a job of several ranks on this machine."""

import pytest

from idgrpo.errors import IdgrpoError
from idgrpo.run import distributed

RANKS = """
import os, sys, time
rank, plan = int(os.environ["RANK"]), sys.argv[1].split(",")
wait_s, end = plan[rank].split(":")
time.sleep(float(wait_s))
os.abort() if end == "abort" else os.kill(os.getpid(), 9) if end == "kill" else sys.exit(int(end))
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


def test_a_rank_that_a_signal_ended_is_named(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "ENTRY", RANKS)
    assert distributed.launch(2, ["0.5:4,0:kill"]) == 4, "what the main rank told of itself"
    assert "error: process 1 of 2 was ended by SIGKILL (as the system does where memory" in capsys.readouterr().err
    end = distributed._end
    monkeypatch.setattr(distributed, "_end", lambda processes, grace_s: end(processes, 0.1))
    with pytest.raises(IdgrpoError, match="process 0 of 2 was ended by SIGKILL") as caught:
        distributed.launch(2, ["0:kill,60:0"])
    assert caught.value.exit_code == 137 and "run the same command again" in str(caught.value.fix)

"""Two processes on one run: the second is told so with exit 5 and changes nothing; afterwards the command works."""

import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.place import FROM_FILES

from idgrpo.errors import StoppedError
from idgrpo.stages.work import Work

HOLD = "import fcntl, sys\nlock = open(sys.argv[1], 'a')\nfcntl.flock(lock, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.read()"


@contextmanager
def held_by_another_process(lock: Path):
    """Let another process hold a run's lock, as `RunFolder.open` does while it works."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield
        process.stdin.close()
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("stage", FROM_FILES)
def test_the_second_process_on_a_run_is_busy(stage, place, monkeypatch):
    def stop(work: Work) -> None:
        raise StoppedError("stopped before it was published")

    with monkeypatch.context() as patch:
        patch.setattr(Work, "_tell_changes", stop)
        assert place.run(place.words(stage)).code == StoppedError.exit_code
    (run,) = (place.store.root / "runs").iterdir()
    before, kept = place.results(stage), {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with held_by_another_process(run / "lock"):
        place.refuses(place.words(stage), 5, f"another process is working in {run}", "--name")
        assert place.results(stage) == before
        assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == kept
    made = place.works(place.words(stage))["artifact"]
    assert len(place.results(stage)) == len(before) + 1
    run.mkdir(exist_ok=True)
    with held_by_another_process(run / "lock"):
        assert place.works(place.words(stage))["artifact"] == made, "what is published needs no lock"


def test_a_second_page_for_the_same_session_is_busy_and_the_first_goes_on(place):
    words = ["annotate", "--samples", f"{place.root}/samples.jsonl", "--samples", f"{place.root}/wrong.jsonl"]
    words += ["--port", "0", "--transcode", "--name", "page", "--store", str(place.store.root)]
    with subprocess.Popen([sys.executable, "-m", "idgrpo", *words], stderr=subprocess.PIPE, text=True) as first:
        opened = next(line for line in first.stderr if line.startswith("open http"))
        assert "Ctrl-C ends" in opened
        place.refuses(words, 5, "another process is working in {w}/store/runs/annotate-page")
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        assert first.wait(timeout=60) == 75
        assert "nothing to publish" in first.stderr.read()

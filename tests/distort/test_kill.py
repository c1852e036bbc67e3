"""A kill at any change on disk: what is published afterwards is whole, complete, and equal to a run without a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from idgrpo.distort.config import DistortConfig
from idgrpo.distort.files import copy_result
from idgrpo.distort.sheets import draw_sheets
from idgrpo.distort.stage import distort
from idgrpo.errors import ArtifactError
from idgrpo.records.jsonl import write_records

# Forks one child for each kill: the libraries are loaded once. The child stops at the n-th change below its work folder; files
# that ffmpeg writes are not seen by an audit hook, so a kill inside of `write_video` comes after the first half of its frames.
KILLER = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from idgrpo.distort import files, job
from idgrpo.distort.config import DistortConfig
from idgrpo.distort.stage import distort
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Sample

samples, work, step, offset = list(read_records(sys.argv[1], Sample)), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
config = DistortConfig(per_video=2, mix={"replace": 1, "blend": 1})
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "open"}
changes, last = 0, 0

def run(folder, kill_at):
    def count():
        global changes
        changes += 1
        if changes == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event, arguments):
        if event not in CHANGES or str(folder) not in str(arguments[0]):
            return
        if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
            count()

    whole = job.write_video
    def in_two_steps(path, clip, **options):
        whole(path, clip[: len(clip) // 2], **options)
        count()
        whole(path, clip, **options)

    job.write_video = in_two_steps
    sys.addaudithook(watch)
    distort(samples, config, folder)
    (folder / "changes.txt").write_text(str(changes))

def forked(folder, kill_at):
    child = os.fork()
    if not child:
        run(folder, kill_at)
        os._exit(0)
    return os.waitpid(child, 0)[1]

assert forked(work / "whole", 0) == 0
total = int((work / "whole" / "changes.txt").read_text())
for kill_at in range(1 + offset, total, step):
    folder = work / f"killed-{kill_at}"
    status = forked(folder, kill_at)
    assert os.WIFSIGNALED(status), (kill_at, status)
    assert forked(folder, 0) == 0
"""


def published(work: Path, target: Path) -> dict[str, bytes]:
    target.mkdir()
    copy_result(work, target)
    return {str(path.relative_to(target)): path.read_bytes() for path in sorted(target.rglob("*")) if path.is_file()}


def kills(samples, folder: Path, step: int, offset: int) -> int:
    """Kill at every `step`-th change, run again, publish, and compare; return how many kills there were."""
    write_records(folder / "samples.jsonl", samples)
    (folder / "driver.py").write_text(KILLER)
    arguments = [folder / "samples.jsonl", folder / "work", step, offset]
    (folder / "work").mkdir()
    subprocess.run([sys.executable, folder / "driver.py", *map(str, arguments)], check=True, timeout=240)
    whole = published(folder / "work" / "whole", folder / "whole")
    killed = sorted((folder / "work").glob("killed-*"))
    for work in killed:
        again = published(work, folder / work.name)
        assert again.keys() == whole.keys(), work.name
        assert again == whole, work.name
    return len(killed)


def test_nothing_torn_is_published_after_a_kill(tiny_samples, tmp_path):
    assert kills(tiny_samples[:1], tmp_path, step=11, offset=3) >= 4


@pytest.mark.slow
def test_nothing_torn_is_published_after_a_kill_at_any_change(tiny_samples, tmp_path):
    assert kills(tiny_samples[:2], tmp_path, step=1, offset=0) >= 60


PARENT = """
import sys, time
from pathlib import Path
from idgrpo.distort import job, stage
from idgrpo.distort.config import DistortConfig
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Sample
samples = list(read_records(sys.argv[1], Sample))
if __name__ == "__main__":
    stage.distort(samples, DistortConfig(per_video=1), Path(sys.argv[2]), workers=2)
else:  # a worker: the first clip never ends
    job.read_clip = lambda *_: time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux tells children")
def test_workers_end_with_their_parent(tiny_samples, tmp_path):
    write_records(tmp_path / "samples.jsonl", tiny_samples[:2])
    (tmp_path / "parent.py").write_text(PARENT)
    arguments = [sys.executable, tmp_path / "parent.py", tmp_path / "samples.jsonl", tmp_path / "work"]
    parent = subprocess.Popen([str(argument) for argument in arguments])
    try:
        workers = waited(lambda: busy_workers(parent.pid), 60)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    assert waited(lambda: not any(alive(worker) for worker in workers), 10)


def busy_workers(parent: int) -> list[psutil.Process]:
    """Give both workers once they have loaded what they need (the resource tracker is no worker)."""
    try:
        children = psutil.Process(parent).children(recursive=True)
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        ready = [
            worker for worker in workers if worker.status() == psutil.STATUS_SLEEPING and worker.memory_info().rss > 2e8
        ]
    except psutil.NoSuchProcess:  # a child that had just ended, a zombie included
        return []
    return ready if len(ready) == 2 else []


def waited(condition, timeout_s: float):
    end = time.monotonic() + timeout_s
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    assert result, "it did not happen in time"
    return result


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_publish_takes_what_the_records_name_and_names_what_is_gone(tiny_samples, tmp_path):
    work = tmp_path / "work"
    distort(tiny_samples[:1], DistortConfig(per_video=1), work)
    draw_sheets(work)
    strays = [work / "videos" / ".1-half.mp4", work / "references" / "old.png", work / "sheets" / ".swap.1.png"]
    for stray in strays:
        stray.write_bytes(b"half")
    whole = published(work, tmp_path / "out")
    assert {"prefs.jsonl", "summary.json", "contact_sheet.png"} < whole.keys()
    assert not {str(stray.relative_to(work)) for stray in strays} & whole.keys()
    assert not any(name.startswith(("parts", "people", "drafts")) for name in whole)
    gone = next(name for name in whole if name.startswith("videos/"))
    (work / gone).unlink()
    with pytest.raises(ArtifactError, match=f"names {gone}, which is gone"):
        published(work, tmp_path / "again")
    # The same command again makes the part anew whose file is gone.
    distort(tiny_samples[:1], DistortConfig(per_video=1), work)
    assert published(work, tmp_path / "third") == whole


def test_sheets_that_were_not_finished_stay_behind(tiny_samples, tmp_path):
    distort(tiny_samples[:1], DistortConfig(per_video=1), tmp_path / "work")
    draw_sheets(tmp_path / "work")
    (tmp_path / "work" / "contact_sheet.png").unlink()
    assert not any("sheet" in name for name in published(tmp_path / "work", tmp_path / "out"))

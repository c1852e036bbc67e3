"""What is around a stage: closed streams, two containers, a store that can only be read, a disk that is full."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idgrpo.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
QUICK = "cases,annotate by oracle,artifacts prune"
ISOLATED = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--uts", "--mount")
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
}  # fmt: skip


def isolated(script: str, *arguments: object) -> subprocess.Popen:
    """Run Python in namespaces of its own (processes, host name, mounts), as a container does."""
    command = [*ISOLATED, sys.executable, "-c", script, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, **pipes)


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skip where the kernel gives no namespaces to us."""
    try:
        done = subprocess.run([*ISOLATED, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare command")
    if done.returncode:
        pytest.skip(f"the kernel gives no namespaces: {done.stderr.strip()}")


def read_ways(folder: Path, *more: str) -> list[dict]:
    command = [sys.executable, "-m", "tests.hostile.readers", "--folder", str(folder), *more]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"stage"')]
    assert done.returncode == 0 and not any(row["wrong"] for row in rows), done.stdout[-3000:]
    return rows


def test_a_stage_ends_its_work_whoever_reads(tmp_path):
    assert len(read_ways(tmp_path, "--stages", QUICK)) == 3 * 7 + 1


@pytest.mark.hostile
def test_every_stage_ends_its_work_whoever_reads(tmp_path):
    assert len(read_ways(tmp_path)) == 11 * 7 + 1


BUILDER = """
import socket, sys
from idgrpo.store.store import Store
socket.sethostname("box")
with Store(sys.argv[1]).publish("cases", "world", inputs={}, config={"by": sys.argv[2]}) as draft:
    (draft.path / "cases.jsonl").write_text(sys.argv[2])
    print(draft.path.name, flush=True)
    sys.stdin.readline()
print(draft.artifact.ref, flush=True)
"""
PRUNER = """
import socket, sys
from idgrpo.cli.main import run
socket.sethostname("box")
sys.exit(run(["artifacts", "prune", "--store", sys.argv[1]]))
"""


def test_two_containers_of_one_host_name_leave_each_other_alone(namespaces, tmp_path):
    """Process numbers are the same in both, and so is the host name: only the locks tell who is alive."""
    store = Store(tmp_path / "store")
    first, second, dead = (isolated(BUILDER, store.root, who) for who in ("first", "second", "dead"))
    drafts = [builder.stdout.readline().strip() for builder in (first, second, dead)]
    folder = store.root / "artifacts/cases/world"
    assert len({*drafts}) == 3 and all((folder / name / "cases.jsonl").is_file() for name in drafts)
    children = Path(f"/proc/{dead.pid}/task/{dead.pid}/children").read_text().split()
    for pid in (*map(int, children), dead.pid):
        os.kill(pid, 9)
    dead.wait()
    deadline = time.monotonic() + 30
    while (
        folder / drafts[2]
    ).exists() and time.monotonic() < deadline:  # a lock is held until a killed process has ended
        pruner = isolated(PRUNER, store.root)
        _, err = pruner.communicate(timeout=120)
        assert pruner.returncode == 0, err
        assert [(folder / name).exists() for name in drafts[:2]] == [True, True]
    assert not (folder / drafts[2]).exists()
    refs = [builder.communicate("\n", timeout=60)[0].strip() for builder in (first, second)]
    assert refs == ["cases/world@v1", "cases/world@v2"]
    for artifact in store.list():
        artifact.verify()
    assert not list(folder.glob(".draft-*"))


HOLDER = """
import socket, sys
from pathlib import Path
from idgrpo.run.folder import RunFolder
socket.sethostname("box")
with RunFolder.open(Path(sys.argv[1]), {}):
    print("held", flush=True)
    sys.stdin.readline()
"""
SECOND = """
import socket, sys
from pathlib import Path
from idgrpo.errors import BusyError
from idgrpo.run.folder import RunFolder
socket.sethostname("box")
try:
    with RunFolder.open(Path(sys.argv[1]), {}):
        sys.exit(0)
except BusyError as error:
    sys.exit(error.exit_code)
"""


def test_a_run_of_one_container_is_busy_for_another(namespaces, tmp_path):
    holder = isolated(HOLDER, tmp_path / "run")
    assert holder.stdout.readline() == "held\n"
    second = isolated(SECOND, tmp_path / "run")
    second.communicate(timeout=60)
    holder.communicate("\n", timeout=60)
    third = isolated(SECOND, tmp_path / "run")
    third.communicate(timeout=60)
    assert (second.returncode, third.returncode) == (5, 0)


READ_ONLY = """
import json, subprocess, sys
from idgrpo.cli.main import run
root = sys.argv[1]
subprocess.run(["mount", "--bind", root, root], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
words = {"list": ["artifacts", "list"], "verify": ["artifacts", "verify"], "show": ["artifacts", "show", "cases"],
         "lineage": ["artifacts", "lineage", "cases"], "plan": ["artifacts", "prune", "--dry-run"],
         "found": ["cases", "--num", "1", "--name", "w"], "new": ["cases", "--num", "2", "--name", "w"],
         "prune": ["artifacts", "prune"], "tag": ["artifacts", "tag", "cases", "best"]}
codes = {name: run([*one, "--store", root]) for name, one in words.items()}
print(json.dumps(codes))
"""


def test_a_store_that_can_only_be_read(namespaces, tmp_path):
    """What reads works; what writes says that it cannot, with the exit code of the machine's lacks."""
    from idgrpo.cli.main import run

    store = Store(tmp_path / "store")
    for seed in ("0", "1"):
        assert run(["cases", "--num", "1", "--name", "w", "--seed", seed, "--store", str(store.root)]) == 0
    assert run(["cases", "--num", "1", "--name", "w", "--store", str(store.root)]) == 0
    reader = isolated(READ_ONLY, store.root)
    out, err = reader.communicate(timeout=240)
    assert reader.returncode == 0 and "Traceback" not in err, err
    codes = json.loads(out.splitlines()[-1])
    reads = {name: codes[name] for name in ("list", "verify", "show", "lineage", "plan", "found")}
    assert not any(reads.values()), (reads, err)
    assert {codes[name] for name in ("new", "prune", "tag")} == {6}, (codes, err)
    assert "Read-only file system" in err


FULL = """
import json, os, subprocess, sys
from pathlib import Path
from idgrpo.cli.main import run
root, room = Path(sys.argv[1]), Path(sys.argv[2])
def sized(size, *options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}"]), "tmpfs", room], check=True)
sized("16m")
words = json.loads(sys.argv[3]) + ["--store", str(room / "store")]
codes = []
for size in sys.argv[4].split(","):
    sized(size, "remount")
    codes.append(run(words))
    assert run(["artifacts", "verify", "--store", str(room / "store")]) == 0
    left = [str(path) for path in room.glob("store/artifacts/*/*/.*")]
    assert not left, left
sized("64m", "remount")
codes.append(run(words))
codes.append(run(["artifacts", "verify", "--store", str(room / "store")]))
print(json.dumps(codes))
"""


@pytest.mark.parametrize(
    "words, sizes",
    [
        (["cases", "--num", "3", "--name", "k"], "4k,16k,32k"),
        (["distort", "--data", "{w}/samples.jsonl", "--per-video", "1", "--name", "k"], "16k,64k,160k"),
        (["annotate", "--by", "oracle", "--samples", "{w}/samples.jsonl", "--samples", "{w}/wrong.jsonl"], "4k,16k"),
    ],
)
def test_a_disk_that_is_full_at_any_moment(namespaces, tmp_path, words, sizes):
    """Exit 6 and nothing published or half-written; with more room the same command goes on to its end."""
    from tests.e2e.place import write_files

    (tmp_path / "world").mkdir()
    write_files(tmp_path / "world")
    (tmp_path / "room").mkdir()
    words = [word.replace("{w}", str(tmp_path / "world")) for word in words]
    process = isolated(FULL, tmp_path / "world", tmp_path / "room", json.dumps(words), sizes)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and "Traceback" not in err, err
    assert json.loads(out.splitlines()[-1]) == [6] * (sizes.count(",") + 1) + [0, 0], err

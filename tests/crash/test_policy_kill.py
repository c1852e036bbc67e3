"""`idgrpo train-policy` killed, stopped, doubled and out of disk, through real processes."""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

for room in ("bases", "reward", "policy"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from policy_setting import SMALL, write_setting  # noqa: E402

ENTRY = "from idgrpo.cli.main import main; main()"
UPDATES = 5
TIMES = ("seconds_", "cpu_seconds", "samples_per_second")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> dict[str, str]:
    return write_setting(tmp_path_factory.mktemp("setting"))


class Runs:
    """Starts the command on one store."""

    def __init__(self, setting: dict[str, str], store: Path, *extra: str):
        given = ["--base", setting["base"], "--cases", setting["cases"], "--rm", setting["rm"], "--store", str(store)]
        self.command = [sys.executable, "-c", ENTRY, "train-policy", *given, *SMALL, "--updates", str(UPDATES), *extra]
        self.store = store

    def start(self, **settings) -> subprocess.Popen:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*self.command, "--json"], env=environment, **pipes, **settings)

    def finish(self, process: subprocess.Popen | None = None) -> tuple[int, dict]:
        process = process or self.start()
        out, err = process.communicate(timeout=600)
        assert out, err
        return process.returncode, json.loads(out)

    def wait_for_updates(self, process: subprocess.Popen, number: int) -> None:
        """Wait until the run has logged `number` updates."""
        while process.poll() is None:
            logs = list(self.store.glob("runs/*/metrics.jsonl"))
            if logs and len(logs[0].read_text().splitlines()) >= number:
                return
            time.sleep(0.01)
        raise AssertionError(process.communicate()[1])


def outcome(document: dict) -> tuple[bytes, list[dict]]:
    folder = Path(document["path"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = [{key: value for key, value in row.items() if not key.startswith(TIMES)} for row in rows]
    return (folder / "pytorch_lora_weights.safetensors").read_bytes(), numbers


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory):
    code, document = Runs(setting, tmp_path_factory.mktemp("whole")).finish()
    assert code == 0
    return outcome(document)


def test_sigkill_at_a_random_moment_then_the_same_command(setting, whole, tmp_path):
    draws = random.Random()  # a new moment at each run of this test: exactness must not depend on it
    runs = Runs(setting, tmp_path)
    for _ in range(2):
        process = runs.start()
        runs.wait_for_updates(process, draws.randint(1, UPDATES - 1))
        time.sleep(draws.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, document = runs.finish()
    assert code == 0
    weights, rows = outcome(document)
    assert weights == whole[0]
    assert rows == whole[1]


def test_sigterm_writes_a_checkpoint_and_exits_75(setting, whole, tmp_path):
    runs = Runs(setting, tmp_path)
    process = runs.start()
    runs.wait_for_updates(process, 2)
    process.send_signal(signal.SIGTERM)
    code, document = runs.finish(process)
    assert code == 75 and "--resume" in document["error"]["fix"]
    assert not list(tmp_path.glob("artifacts/policy/*/v*"))
    runs.command.append("--resume")
    code, document = runs.finish()
    assert code == 0 and outcome(document) == whole


def test_second_process_on_the_same_run_is_busy(setting, tmp_path):
    runs = Runs(setting, tmp_path)
    first = runs.start()
    runs.wait_for_updates(first, 1)
    first.send_signal(signal.SIGSTOP)
    try:
        code, document = runs.finish()
        assert code == 5 and "another process" in document["error"]["message"]
    finally:
        first.send_signal(signal.SIGCONT)
        first.kill()
        first.communicate()


def test_full_disk_is_found_before_the_first_update(setting, tmp_path):
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    runs = Runs(setting, tmp_path)
    code, document = runs.finish(runs.start(preexec_fn=small_files))
    assert code == 6 and "disk is full" in document["error"]["message"]
    assert not list(tmp_path.glob("runs/*/metrics.jsonl"))
    assert not list(tmp_path.glob("runs/*/checkpoints/step-*"))


@pytest.mark.dist
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_two_ranks_killed_at_a_random_moment_and_resumed(setting, tmp_path, zero):
    draws = random.Random()
    extra = ("--nproc", "2", "--zero", str(zero))
    _, document = Runs(setting, tmp_path / "whole", *extra).finish()
    expected = outcome(document)
    runs = Runs(setting, tmp_path / "killed", *extra)
    process = runs.start(start_new_session=True)
    runs.wait_for_updates(process, draws.randint(1, UPDATES - 1))
    time.sleep(draws.uniform(0, 0.1))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, document = runs.finish()
    assert code == 0 and outcome(document) == expected


@pytest.mark.dist
def test_two_nodes_of_torchrun_end_as_two_ranks_of_one(setting, tmp_path):
    _, document = Runs(setting, tmp_path / "one", "--nproc", "2").finish()
    expected = outcome(document)
    runs = Runs(setting, tmp_path / "two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = ["--master-addr", "127.0.0.1", "--master-port", str(free.getsockname()[1])]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meeting]
    command = runs.command[runs.command.index("train-policy") :]
    nodes = []
    for rank in range(2):
        runs.command = [*torchrun, "--node-rank", str(rank), "-m", "idgrpo", *command]
        nodes.append(runs.start())
    code, document = runs.finish(nodes[0])
    assert code == 0 and outcome(document) == expected
    out, err = nodes[1].communicate(timeout=60)
    assert nodes[1].returncode == 0, err
    assert out == ""  # only the first rank has something to tell


@pytest.mark.dist
@pytest.mark.parametrize("flags", [[], ["--no_local_rank"]])
def test_the_deepspeed_launcher_ends_as_two_ranks_of_ours(setting, tmp_path, flags):
    _, document = Runs(setting, tmp_path / "ours", "--nproc", "2").finish()
    runs = Runs(setting, tmp_path / "theirs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = ["--master_addr", "127.0.0.1", "--master_port", str(free.getsockname()[1])]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", *meeting, *flags]
    command = runs.command[runs.command.index("train-policy") :]
    runs.command = [*launcher, "--module", "idgrpo", *command]
    process = runs.start()
    out, err = process.communicate(timeout=600)  # the launcher's own lines stand beside ours
    assert process.returncode == 0, err
    (folder,) = (tmp_path / "theirs").glob("artifacts/policy/*/v*")
    assert str(folder) in out
    assert outcome({"path": str(folder)}) == outcome(document)


@pytest.mark.dist
def test_two_ranks_stop_together_with_75(setting, tmp_path):
    runs = Runs(setting, tmp_path, "--nproc", "2")
    process = runs.start()
    runs.wait_for_updates(process, 1)
    process.send_signal(signal.SIGTERM)
    code, document = runs.finish(process)
    assert code == 75 and document["exit_code"] == 75


@pytest.mark.dist
def test_ranks_whose_launcher_is_killed_stop_with_a_checkpoint(setting, tmp_path):
    runs = Runs(setting, tmp_path, "--nproc", "2", "--updates", "200")
    process = runs.start()
    runs.wait_for_updates(process, 1)
    ranks = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(ranks) >= 2
    process.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        assert time.monotonic() < deadline, "ranks went on without their launcher"
        time.sleep(0.1)
    done = len(next(tmp_path.glob("runs/*/metrics.jsonl")).read_text().splitlines())
    assert 1 <= done < 200 and list(tmp_path.glob(f"runs/*/checkpoints/step-{done:06d}"))

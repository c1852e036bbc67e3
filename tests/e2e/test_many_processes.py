"""`--nproc 2`, a killed rank and a shared run give the same artifacts as one process, through the real command line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from idgrpo.store.store import Store

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1500)]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
SAMPLE = ["sample", "--base", "tiny-phantom", "--num-per-case", "2", "--steps", "3", "--batch-size", "2"]


def begin(store: Path, *words: str, **more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "idgrpo", *words, "--store", str(store), "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=ENVIRONMENT | more, text=True, **pipes)


def run(store: Path, *words: str, **more: str) -> str:
    """Run a command and give the digest of the artifact that its document names."""
    process = begin(store, *words, **more)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    assert err.count("looking at videos: ") <= 2 and "Traceback" not in err
    return Store(store).resolve(json.loads(out)["artifact"]).digest


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Two equal stores: one for a single process, one for two; and where a judge lies."""
    folder = tmp_path_factory.mktemp("many")
    for name in ("one", "two"):
        run(folder / name, "cases", "--num", "4", "--seed", "5", "--split", "test")
    return folder / "one", folder / "two", random_judge(folder)


def random_judge(folder: Path) -> Path:
    """Write a reward model with random weights."""
    from tests.reward.tiny_vlm import write_tiny_vlm

    from idgrpo.reward.backbone import load_backbone
    from idgrpo.reward.inputs import InputBuilder
    from idgrpo.reward.model import RewardNetwork, save_network
    from idgrpo.reward.parts import add_token_rows

    vlm = write_tiny_vlm(folder / "vlm", carried={"num_frames": 4, "min_pixels": 1024, "max_pixels": 1024})
    builder, backbone = InputBuilder.load(vlm), load_backbone(vlm)
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    network = RewardNetwork(backbone, backbone.get_input_embeddings().weight.shape[1])
    save_network(network, builder, {}, folder / "judge", copy_from=None)
    return folder / "judge"


def test_sample_and_what_works_on_its_clips(stores):
    one, two, judge = stores
    assert run(one, *SAMPLE) == run(two, *SAMPLE, "--nproc", "2")
    for store in (one, two):
        run(store, *SAMPLE, "--base", "tiny-vace", "--name", "other")
    given = ["--samples", "samples/tiny-phantom", "--samples", "samples/other"]
    commands = {
        "eval": ["eval", *given, "--set", "statistics.num_resamples=200", "--set", "finding.batch_size=2",
                 "--reward", str(judge)],
        "judge": ["annotate", "--by", "judge", *given, "--judge", str(judge)],
        "distort": ["distort", "--data", "samples/tiny-phantom", "--base", "tiny-phantom", "--per-video", "2", "--finder", "tiny",
                    "--mix", "renoise=1,swap=1", "--sample-set", "sampler.num_steps=3"],
    }  # fmt: skip
    found = {name: (run(one, *words), run(two, *words, "--nproc", "2")) for name, words in commands.items()}
    assert {name: a == b for name, (a, b) in found.items()} == dict.fromkeys(commands, True)


def test_eval_samples_with_the_ranks(stores):
    one, two, _ = stores
    words = ["eval", "--cases", "cases", "--base", "tiny-vace", "--sample-set", "sampler.num_steps=2",
             "--set", "statistics.num_resamples=200"]  # fmt: skip
    assert run(one, *words) == run(two, *words, "--nproc", "2")


def test_a_killed_rank_leaves_a_run_that_goes_on(stores, tmp_path):
    one, two, _ = stores
    # More work than a rank does in the time that the launcher leaves to it after another one died.
    words = [*SAMPLE, "--num-per-case", "16", "--name", "killed", "--steps", "30", "--batch-size", "1"]
    process = begin(two, *words, "--nproc", "2")
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        if list(two.glob("runs/sample-killed-*/samples/videos/[!.]*")) or process.poll() is not None:
            break
        time.sleep(0.05)
    ranks = [child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"]
    ranks[0].send_signal(signal.SIGKILL)
    assert process.wait(120) == 128 + signal.SIGKILL
    process.communicate()
    assert not list(two.glob("artifacts/samples/killed/*"))
    kept = {path.name: path.stat().st_mtime_ns for path in two.glob("runs/sample-killed-*/samples/videos/[!.]*")}
    assert 0 < len(kept) < 64
    assert run(two, *words, "--nproc", "2") == run(one, *words)


def test_jobs_of_a_cluster_share_a_run(stores):
    one, two, _ = stores
    words = [*SAMPLE, "--name", "array", "--seed", "3", "--steps", "8"]
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "7"}
    jobs = [begin(two, *words, "--share", **array) for _ in range(2)]
    told = [job.communicate(timeout=600) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], told
    assert len({json.loads(out)["artifact"] for out, _ in told}) == 1
    assert Store(two).resolve("samples/array").digest == run(one, *words)

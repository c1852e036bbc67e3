"""Ranks and ZeRO stages compute the same training as one process (gloo on CPU)."""

import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from idgrpo.errors import UsageError
from idgrpo.run.distributed import (
    World,
    first_host,
    join_world,
    meeting_point,
    rank_device,
    world_from_environment,
)

WORKER = Path(__file__).with_name("rank_worker.py")
SETTINGS = {
    "num_updates": 3,
    "group": {"num_cases": 4, "size": 2},
    "rollout": {"num_steps": 4, "window": {"size": 2, "last": 3}, "batch_size": 8},
    "loss": {"micro_batch": 3},
    "kl": {"weight": 0.1},
}


def test_world_from_launchers():
    assert world_from_environment({}) == World(0, 1, 0)
    assert world_from_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == World(3, 4, 1)
    step = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8", "SLURM_LOCALID": "2"}
    assert world_from_environment(step) == World(2, 8, 2)
    allocation = {
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "8",
    }  # a command of an sbatch script or an salloc shell runs once
    assert world_from_environment(allocation) == World(0, 1, 0)
    assert world_from_environment(step | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}) == World(
        1, 2, 1
    )  # --nproc 2


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("n1", "n1"),
        ("gpu[003-007,9],login", "gpu003"),
        ("a,b", "a"),
        ("r[1-2]n[07,9]", "r1n07"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_first_host_of_a_slurm_list(hosts, first):
    assert first_host(hosts) == first


def test_ranks_of_a_slurm_step_meet_on_its_first_host():
    step = {"SLURM_STEP_NODELIST": "gpu[3-4]", "SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "2"}
    found = meeting_point(step)
    assert found["MASTER_ADDR"] == "gpu3" and 15000 <= int(found["MASTER_PORT"]) < 30000
    assert meeting_point(step | {"SLURM_STEP_ID": "3"})["MASTER_PORT"] != found["MASTER_PORT"]
    assert meeting_point(step | {"MASTER_ADDR": "x", "MASTER_PORT": "1"}) == {"MASTER_ADDR": "x", "MASTER_PORT": "1"}
    assert meeting_point({}) == {}


def test_a_rank_takes_the_gpu_that_its_task_is_shown(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert rank_device("cuda", World(3, 8, 3)) == "cuda:0"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert rank_device("cuda", World(3, 8, 3)) == "cuda:3"
    assert rank_device("cuda:1", World(3, 8, 3)) == "cuda:1" and rank_device("cuda", World()) == "cuda"


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "nccl"), (None, "nccl")])
def test_ranks_on_cpus_of_a_gpu_machine_talk_by_gloo(monkeypatch, device, backend):
    asked = []
    rank = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in rank.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", lambda number: None)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda name, **_: asked.append(name))
    join_world(device)
    assert asked == [backend]


def test_rank_without_an_address_is_told_how_to_start(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="MASTER_ADDR"):
        join_world()


def test_ranks_wait_for_hours_while_the_main_one_evaluates(monkeypatch):
    asked = {}
    rank = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in rank.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, **settings: asked.update(settings))
    join_world()
    assert asked["timeout"] >= timedelta(hours=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    from tiny_checkpoints import TINY_VAE, write_diffusers_base

    return write_diffusers_base(tmp_path_factory.mktemp("base") / "phantom", "phantom", TINY_VAE)


def train(checkpoint: Path, out: Path, num_ranks: int, engine: dict, **changes):
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = json.dumps(SETTINGS | {"engine": engine} | changes)
    processes = []
    for rank in range(num_ranks):
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
        }
        command = [sys.executable, str(WORKER), str(checkpoint), str(out), settings]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL))
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()[-3000:]
    weights = [load_file(out / f"weights-{rank}.safetensors") for rank in range(num_ranks)]
    rows = [json.loads((out / f"rows-{rank}.json").read_text()) for rank in range(num_ranks)]
    return weights, rows


@pytest.fixture(scope="module")
def alone(checkpoint, tmp_path_factory):
    return train(checkpoint, tmp_path_factory.mktemp("alone") / "run", 1, {})


def tolerance(expected: dict[str, Any]) -> float:
    """Give a thousandth of how far training moved what began at 0 (the adapter's B), at least 1e-6.

    Sums over ranks come in other orders, and AdamW divides by the size of a gradient: on some CPUs 1.2e-6 of a way of 2.8e-3.
    """
    moved = max((float(value.abs().max()) for name, value in expected.items() if "lora_B" in name), default=0.0)
    return max(1e-6, 1e-3 * moved)


@pytest.mark.dist
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("num_ranks", "engine"),
    [
        (2, {}),
        (4, {}),
        (1, {"zero": 2}),
        (2, {"zero": 0}),
        (2, {"zero": 1}),
        (2, {"zero": 2}),
        (4, {"zero": 1}),
        (4, {"zero": 2}),
        (1, {"zero": 3}),
        (2, {"zero": 3}),
        (2, {"zero": 3, "whole_rollout": False}),
        (4, {"zero": 3}),
    ],
)
def test_any_ranks_and_stage_end_in_the_same_weights(checkpoint, alone, tmp_path, num_ranks, engine):
    weights, rows = train(checkpoint, tmp_path / "run", num_ranks, engine)
    (expected,), (expected_rows,) = alone
    assert any(value.abs().max() > 1e-3 for name, value in expected.items() if "lora_B" in name)  # something was learnt
    for rank in weights:
        assert rank.keys() == expected.keys()
        for name, value in rank.items():
            assert float((value - expected[name]).abs().max()) < 1e-6, name
        for name, value in rank.items():
            assert value.equal(weights[0][name]), f"{name} differs between ranks"
    for row, expected_row in zip(rows[0], expected_rows, strict=True):
        assert row == pytest.approx(expected_row, rel=1e-3, abs=1e-6)


@pytest.mark.dist
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("num_ranks", "engine"), [(2, {}), (2, {"zero": 2}), (2, {"zero": 3})])
def test_stored_clips_on_any_ranks_and_stage_end_in_the_same_weights(checkpoint, tmp_path, num_ranks, engine):
    """Ranks hold clips of one and of two people in unequal numbers of batches; guidance asks the reference as well."""
    sft = {"method": "sft", "clips": {"num_per_update": 6, "guidance": 2.0}, "loss": {"micro_batch": 2}}
    (expected,), (expected_rows,) = train(checkpoint, tmp_path / "alone", 1, {}, **sft)
    assert any(value.abs().max() > 1e-3 for name, value in expected.items() if "lora_B" in name)
    weights, rows = train(checkpoint, tmp_path / "run", num_ranks, engine, **sft)
    for rank in weights:
        for name, value in rank.items():
            assert float((value - expected[name]).abs().max()) < 1e-6, name
    assert [row["matching_error"] for row in rows[0]] == pytest.approx([row["matching_error"] for row in expected_rows])


@pytest.mark.dist
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("num_ranks", "engine"), [(2, {}), (2, {"zero": 2}), (2, {"zero": 3})])
def test_preferences_on_any_ranks_and_stage_end_in_the_same_weights(checkpoint, tmp_path, num_ranks, engine):
    """Ranks hold preferences about one person and two people in unequal numbers of batches, decided ones and ties.

    What two clips pull at cancels to a part of a hundredth, so that the order of sums shows in AdamW's quotient of moments: at
    the rate of the other tests (1e-3) single weights came out 4e-6 apart, at this one 4e-7.
    """
    dpo = {
        "method": "dpo",
        "clips": {"num_per_update": 6},
        "loss": {"micro_batch": 2},
        "optimizer": {"lr": 1e-4},
        "dpo": {"beta": 500.0, "loss": "rao_kupper"},
    }
    (expected,), (expected_rows,) = train(checkpoint, tmp_path / "alone", 1, {}, **dpo)
    assert any(value.abs().max() > 1e-4 for name, value in expected.items() if "lora_B" in name)
    weights, rows = train(checkpoint, tmp_path / "run", num_ranks, engine, **dpo)
    for rank in weights:
        for name, value in rank.items():
            assert float((value - expected[name]).abs().max()) < 1e-6, name
    assert [row["preference_loss"] for row in rows[0]] == pytest.approx(
        [row["preference_loss"] for row in expected_rows]
    )


@pytest.mark.dist
@pytest.mark.timeout(1200)
def test_ranks_share_what_has_drifted(checkpoint, tmp_path):
    """Some ranks draw the first clip of a group and some do not; each pulls by the drift of all."""
    held = {"advantage": {"controls": ("sharpness",), "hold": 20.0}}
    (expected,), (expected_rows,) = train(checkpoint, tmp_path / "alone", 1, {}, **held)
    assert expected_rows[-1]["drift_sharpness"] != 0
    for num_ranks, engine in ((4, {}), (2, {"zero": 3})):
        weights, rows = train(checkpoint, tmp_path / f"on-{num_ranks}", num_ranks, engine, **held)
        # Half a level of one pixel more or less moves a drift this small by a hundredth.
        assert [row["drift_sharpness"] for row in rows[0]] == pytest.approx(
            [row["drift_sharpness"] for row in expected_rows], rel=0.05, abs=1e-6
        )
        for rank in weights:
            assert all(value.equal(weights[0][name]) for name, value in rank.items())
        apart = max(float((value - expected[name]).abs().max()) for name, value in weights[0].items())
        assert apart < 1e-5, f"{num_ranks} ranks, {engine}: {apart}"


@pytest.mark.dist
@pytest.mark.timeout(1200)
def test_all_ranks_step_on_the_same_gradients(checkpoint, alone, tmp_path):
    train(checkpoint, tmp_path / "run", 2, {})
    first, second = (load_file(tmp_path / "run" / f"gradients-{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys() == alone[0][0].keys()
    assert all(gradient.equal(second[name]) for name, gradient in first.items())
    assert any(float(gradient.abs().max()) > 0 for gradient in first.values())


@pytest.mark.dist
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("num_groups", "size", "num_ranks", "engine"),
    [
        (8, 2, 2, {}),  # two ranks of four groups
        (2, 4, 4, {}),  # a group lies on two ranks
        (2, 4, 4, {"zero": 2}),
    ],
)
def test_groups_end_alike_however_they_lie_on_ranks(checkpoint, tmp_path, num_groups, size, num_ranks, engine):
    group = {"num_cases": num_groups, "size": size}
    ((expected,), (expected_rows,)) = train(checkpoint, tmp_path / "one", 1, {}, group=group)
    weights, rows = train(checkpoint, tmp_path / "many", num_ranks, engine, group=group)
    assert any(value.abs().max() > 1e-3 for name, value in expected.items() if "lora_B" in name)
    for rank in weights:
        for name, value in rank.items():
            assert float((value - expected[name]).abs().max()) < tolerance(expected), name
    for row, expected_row in zip(rows[0], expected_rows, strict=True):
        assert row == pytest.approx(expected_row, rel=1e-3, abs=1e-6)


@pytest.fixture(scope="module")
def whole_weights_alone(checkpoint, tmp_path_factory):
    return train(checkpoint, tmp_path_factory.mktemp("whole") / "run", 1, {}, train="full", kl={"weight": 0.0})


@pytest.mark.dist
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("num_ranks", "zero"), [(2, 0), (2, 1), (2, 2), (2, 3), (4, 3)])
def test_whole_weights_end_alike_on_any_ranks_and_stage(checkpoint, whole_weights_alone, tmp_path, num_ranks, zero):
    weights, _ = train(checkpoint, tmp_path / "run", num_ranks, {"zero": zero}, train="full", kl={"weight": 0.0})
    ((expected,), _) = whole_weights_alone
    for rank in weights:
        assert rank.keys() == expected.keys()
        for name, value in rank.items():  # AdamW divides by tiny second moments: on some CPUs a weight is 1.07e-6 off
            assert float((value - expected[name]).abs().max()) < 2e-6, name

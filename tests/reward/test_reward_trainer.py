"""The trainer takes the batch it was told, ranks meet and stop together, checkpoints count only when whole."""

import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from idgrpo.errors import IdgrpoError
from idgrpo.reward.data import FeaturePairs, keep_batch
from idgrpo.reward.losses import rao_kupper
from idgrpo.reward.model import HeadNetwork
from idgrpo.reward.trainer import RewardTrainer, RunCallback, latest_complete, pair_objective, training_arguments
from idgrpo.run.checkpoint import seal
from idgrpo.run.distributed import World


def head_trainer(folder, *, device="cpu", **settings) -> RewardTrainer:
    """A trainer of a head on 16 random pairs, two an update."""
    generator = torch.Generator().manual_seed(0)
    dataset = FeaturePairs(torch.randn(16, 4, generator=generator), [0, 1] * 8, [1.0] * 16, list(range(16)))
    arguments = training_arguments(
        folder,
        device=device,
        seed=0,
        save_steps=1000,
        logging_steps=1,
        per_device_train_batch_size=2,
        learning_rate=0.1,
        **settings,
    )
    return RewardTrainer(
        model=HeadNetwork(4, torch.ones(())),
        args=arguments,
        train_dataset=dataset,
        data_collator=keep_batch,
        compute_loss_func=pair_objective(rao_kupper, {}),
    )


def test_eight_visible_gpus_do_not_multiply_the_batch_of_one_process(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)  # what transformers asks in one process
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # so that it does not touch them
    trainer = head_trainer(tmp_path, device="cuda:0")
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == 2
    assert len(trainer.get_train_dataloader()) == 8 and trainer._train_batch_size == 2


@pytest.mark.dist
def test_ranks_of_a_batch_system_meet(tmp_path) -> None:
    code = (
        "from pathlib import Path; from idgrpo.run.distributed import join_world, leave_world\n"
        "from idgrpo.reward.trainer import training_arguments\n"
        "world = join_world()\n"
        f"arguments = training_arguments(Path({str(tmp_path)!r}), device='cpu', seed=0)\n"
        "print(world.rank, world.size, arguments.process_index, arguments.world_size, world.gather(world.rank))\n"
        "leave_world()\n"
    )
    plain = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    ranks = []
    for rank in range(2):
        slurm = {"SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": str(rank)}
        meeting = {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_JOB_ID": "29613", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code]
        ranks.append(subprocess.Popen(command, env=plain | slurm | meeting, stdout=subprocess.PIPE, text=True))
    told = [rank.communicate(timeout=120)[0].split("\n")[0] for rank in ranks]
    assert told == ["0 2 0 2 [0, 1]", "1 2 1 2 [0, 1]"]


class Ranks(World):
    """A job in which another rank was asked to stop."""

    def any(self, flag: bool) -> bool:
        return True


def test_one_stopped_rank_stops_all_at_one_update() -> None:
    state, control = SimpleNamespace(global_step=3), SimpleNamespace(should_save=False, should_training_stop=False)
    callback = RunCallback(lambda step, **values: None, lambda step, loss: None, lambda: False, Ranks())
    callback.on_step_end(None, state, control)
    assert control.should_save and control.should_training_stop


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path) -> None:
    trainer = head_trainer(tmp_path)
    callback = RunCallback(lambda step, **values: None, lambda step, loss: None, lambda: False, World())
    trainer.add_callback(callback)
    with torch.no_grad():
        trainer.model.head.weight.fill_(float("nan"))
    with pytest.raises(IdgrpoError, match="the loss is nan at update 1"):
        trainer.train()
    with pytest.raises(IdgrpoError, match=r"head.weight is not finite"):
        trainer._save(str(tmp_path / "checkpoint-1"))
    assert not list(tmp_path.rglob("*.safetensors"))


def written(folder, step: int):
    path = folder / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "global_step" / "rank0.pt").write_bytes(b"moments")
    return path


def test_a_checkpoint_counts_when_it_is_whole(tmp_path, caplog) -> None:
    assert latest_complete(tmp_path) is None
    old, new = written(tmp_path, 9), written(tmp_path, 10)
    seal(old)
    with caplog.at_level(logging.WARNING):
        assert latest_complete(tmp_path) == old  # what a kill leaves has no seal
    assert "checkpoint-10 is not used: it was not finished" in caplog.text
    seal(new)
    assert latest_complete(tmp_path) == new


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "seal", "no object"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, damage) -> None:
    old, new = written(tmp_path, 9), written(tmp_path, 10)
    seal(old), seal(new)
    file = new / "global_step" / "rank0.pt"
    if damage == "changed":
        file.write_bytes(b"mOments")
    elif damage == "cut":
        file.write_bytes(b"mo")
    elif damage == "gone":
        file.unlink()
    else:
        (new / "sealed.json").write_text("{" if damage == "seal" else "[1]")
    with caplog.at_level(logging.WARNING):
        assert latest_complete(tmp_path) == old
    assert "checkpoint-10 is not used" in caplog.text

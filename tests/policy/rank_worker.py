"""One rank of a small training: makes updates with a tiny random base and writes what it ended with.

Run as `python rank_worker.py CHECKPOINT OUT JSON` with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from idgrpo.bases.contract import VideoSize
from idgrpo.bases.load import load_base
from idgrpo.bases.lora import attach
from idgrpo.bases.tuned import open_all
from idgrpo.cli.streams import leave
from idgrpo.policy.clips import read_clips, read_pairs
from idgrpo.policy.config import ATTENTION, DpoConfig, PolicyConfig
from idgrpo.policy.dpo import PairBook
from idgrpo.policy.scoring import RewardScorer
from idgrpo.policy.stored import ClipBook
from idgrpo.policy.trainer import Trainer
from idgrpo.policy.weights import save_weights, snapshot, trained_weights
from idgrpo.run.distributed import join_world, leave_world
from idgrpo.run.engine import OptimizerSettings
from idgrpo.run.zero import make_engine

SIZE = VideoSize(32, 32, 5)


class Book:
    def __init__(self, base, num_cases):
        self.base = base
        people = ["a man", "a woman", "two people", "a and b"]
        self.cases = [
            SimpleNamespace(id=f"case-{i}", prompt=f"{people[i % 4]} walk on the beach") for i in range(num_cases)
        ]

    def __len__(self):
        return len(self.cases)

    def references(self, index):
        source = torch.Generator().manual_seed(index)
        return [
            torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8, generator=source)
            for _ in range(1 + index % 3)  # ranks cut different numbers of batches
        ]

    def __getitem__(self, index):
        return self.base.encode(self.cases[index].prompt, self.references(index), SIZE)


def redness(videos, references, prompts):
    # One case is always without variance, so that ranks keep different numbers of pairs.
    return [0.0 if p.startswith("two") else float(v[:, 0].float().mean()) for v, p in zip(videos, prompts, strict=True)]


def stored_clips(base, out: Path, world):
    """Clips of one person and two people, encoded by both ranks into one folder."""
    from test_sft import write_samples

    if world.is_main:
        write_samples(out / "data", num=8, size=(5, 32, 32))
    world.barrier()
    book = ClipBook(base, read_clips(out / "data" / "samples.jsonl"), SIZE, out / "clips")
    book.encode(world)
    return book


def stored_pairs(base, out: Path, world):
    """Preferences about one person and two people, encoded by both ranks into one folder."""
    from test_dpo import write_preferences

    if world.is_main:
        write_preferences(out / "data", ("a", "b", "tie", "b", "a", "a"), size=(5, 32, 32))
    world.barrier()
    pairs = read_pairs(out / "data" / "prefs.jsonl", DpoConfig(loss="rao_kupper"))
    book = PairBook(base, pairs, SIZE, out / "clips")
    book.encode(world)
    return book


def main() -> None:
    torch.set_num_threads(1)
    checkpoint, out, changes = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    world = join_world()
    config = PolicyConfig.model_validate(changes | {"preview": {"every": 0}})
    base = load_base(checkpoint)
    if config.train == "full":
        open_all(base)
    else:
        attach(base, rank=4, alpha=4, targets=ATTENTION, seed=0)
    weights = trained_weights(base.transformer)
    start = snapshot(weights)
    settings = OptimizerSettings(1e-3 if config.train == "lora" else 1e-4, (0.9, 0.999), 1e-8, 1e-4, 1.0)
    engine = make_engine(base.transformer, weights, settings, world, config.engine.zero)
    stepped: dict[str, torch.Tensor] = {}
    if not config.engine.zero:  # ZeRO's own optimizers hold parts of the gradients
        engine.optimizer.register_step_pre_hook(
            lambda *_: stepped.update({name: value.grad.clone() for name, value in weights.items()})
        )
    made = {"sft": stored_clips, "dpo": stored_pairs}
    book = made[config.method](base, out, world) if config.method in made else Book(base, 8)
    trainer = Trainer(base, book, RewardScorer(redness, config.reward), config, engine, start=start, folder=out)
    rows = [trainer.update() for _ in range(config.num_updates)]
    keep = (
        "preference_loss",
        "reward_mean",
        "matching_error",
        "grad_norm",
        "kl",
        "samples_trained",
        "ratio_mean",
        "drift_sharpness",
    )
    with engine.gathered():
        save_weights(out / f"weights-{world.rank}.safetensors", snapshot(weights))
    save_weights(out / f"gradients-{world.rank}.safetensors", stepped)
    (out / f"rows-{world.rank}.json").write_text(
        json.dumps([{key: row[key] for key in keep if key in row} for row in rows])
    )
    world.barrier()
    leave_world()


if __name__ == "__main__":
    main()
    leave(0)  # as the program's ranks do: threads of libtorch do not survive an interpreter that is taken down

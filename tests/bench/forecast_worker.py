"""One rank of a measured run: trains all weights of tiny-phantom for a few updates and writes seconds and bytes it moved.

Run as `python forecast_worker.py OUT JSON` with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
"""

import inspect
import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

MOVED = {"bytes": 0.0}


def count_traffic() -> None:
    """Count what this rank sends in every collective of tensors, as a ring would move it."""

    def counted(name: str, whole: str, times: int) -> None:
        plain = getattr(dist, name)
        parameters = inspect.signature(plain)

        def collective(*given, **named):
            ranks, tensors = dist.get_world_size(), parameters.bind(*given, **named).arguments[whole]
            size = sum(t.nbytes for t in tensors) if isinstance(tensors, list) else tensors.nbytes
            MOVED["bytes"] += times * size * (ranks - 1) / ranks
            return plain(*given, **named)

        setattr(dist, name, collective)

    counted("all_reduce", "tensor", 2)
    counted("reduce", "tensor", 1)
    counted("all_gather_into_tensor", "output_tensor", 1)
    counted("all_gather", "tensor_list", 1)
    counted("reduce_scatter_tensor", "input", 1)
    counted("reduce_scatter", "input_list", 1)


def main() -> None:
    count_traffic()  # before anything imports the collectives by name
    torch.set_num_threads(1)
    out, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
    from idgrpo.bases.load import load_base
    from idgrpo.bases.tuned import open_all
    from idgrpo.policy.config import PolicyConfig
    from idgrpo.policy.groups import CaseBook
    from idgrpo.policy.recipes import merge, recipe
    from idgrpo.policy.scoring import RewardScorer
    from idgrpo.policy.train import training_size
    from idgrpo.policy.trainer import Trainer
    from idgrpo.policy.weights import snapshot, trained_weights
    from idgrpo.run.distributed import join_world, leave_world
    from idgrpo.run.engine import OptimizerSettings
    from idgrpo.run.zero import make_engine
    from idgrpo.tinyworld.cases import make_cases, write_cases

    world = join_world()
    config = PolicyConfig.model_validate(merge(recipe("full", "tiny-phantom").model_dump(), changes))
    base = load_base("tiny-phantom")
    cases = write_cases(out / f"cases-{world.rank}", make_cases(8, 0))
    open_all(base)
    weights = trained_weights(base.transformer)
    start = snapshot(weights)
    engine = make_engine(
        base.transformer, weights, OptimizerSettings(1e-4, (0.9, 0.999), 1e-8, 0, 1), world, config.engine.zero
    )

    def redness(videos, references, prompts):
        return [float(video[:, 0].float().mean()) for video in videos]

    book = CaseBook(base, cases, training_size(base.entry, config))
    trainer = Trainer(base, book, RewardScorer(redness, config.reward), config, engine, start=start, folder=out)
    rows = []
    for _ in range(config.num_updates):
        world.barrier()
        moved, began = MOVED["bytes"], time.monotonic()
        figures = trainer.update()
        seconds = time.monotonic() - began
        outside = sum(float(figures[f"seconds_{phase}"]) for phase in ("condition", "decode", "reward"))
        rows.append({"seconds": seconds - outside, "gib": (MOVED["bytes"] - moved) / 2**30})
    (out / f"rows-{world.rank}.json").write_text(json.dumps(rows))
    world.barrier()
    leave_world()


if __name__ == "__main__":
    main()

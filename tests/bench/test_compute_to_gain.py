"""How much compute a held-out gain of identity takes: our default against the authors' settings and against noise in steps.

The reward is the oracle, so that only the policy stage differs; the gain is the finder's, on people never seen, with fixed
noise. Compute is that of the transformer (`idgrpo.policy.cost`). Every setting has this world's groups and adapter; credit for
noise has half of the default's rate, kept constant, for at 6e-3 it collapsed in the first trials of this world. The
authors' settings may spend five times what the default needed, noise in two steps twice as much. Evaluations are not counted.
"""

import contextlib
import math
from pathlib import Path

import pytest

from idgrpo.bases.load import load_base
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.forecast import load_of
from idgrpo.policy.measured import HeldOut
from idgrpo.policy.recipes import recipe
from idgrpo.policy.train import train
from idgrpo.records.models import Reference
from idgrpo.run.folder import RunFolder
from idgrpo.tinyworld.cases import make_cases, write_cases
from idgrpo.tinyworld.oracle import identity_by_template
from idgrpo.video.read import read_image

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]
BASE = "tiny-phantom"
GAIN = 0.08
NUM_CASES, NUM_HELD_OUT = 160, 64


class Reached(Exception):
    """Raised by the held-out evaluation when the gain is there: the rest of the run would only cost time."""


class Course:
    """Trains with the oracle as reward and measures people never seen on the way."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cases = write_cases(folder / "train", make_cases(NUM_CASES, 0))
        self.fresh = write_cases(folder / "fresh", make_cases(NUM_HELD_OUT, 0, "eval"))
        self.person = {
            read_image(r.images[0]).numpy().tobytes(): r.person for case in self.cases for r in case.references
        }

    def reward(self, videos, references, prompts) -> list[float]:
        people = [
            [Reference(person=self.person[image.numpy().tobytes()], images=["-"]) for image in images]
            for images in references
        ]
        return [sum(scores) / len(scores) for scores in identity_by_template(videos, people)]

    def run(self, name: str, config: PolicyConfig, num_updates: int, every: int) -> float | None:
        """Train until the held-out gain is GAIN; return the TFLOP spent, None if `num_updates` did not suffice."""
        config = config.model_copy(
            update={"num_updates": num_updates, "evaluation": config.evaluation.model_copy(update={"every": every})}
        )
        base = load_base(BASE)
        spent = tflop_of_update(base, config)
        clips = self.folder / f"{name}-clips"
        measure = HeldOut(self.fresh, self.cases, clips, config=config.evaluation, size=base.entry.train_size)
        identity: dict[int, float] = {}

        def watch(base, update: int) -> dict[str, float]:
            figures = measure(base, update)
            identity[update] = figures["identity"]
            if identity[update] >= (1 + GAIN) * identity[min(identity)]:
                raise Reached
            return figures

        with (
            RunFolder.open(self.folder / name, {"name": name}) as run,
            contextlib.suppress(Reached),
        ):
            train(base, self.cases, self.reward, config, run, out=self.folder / f"{name}-policy", evaluate=watch)
        start, last = identity[min(identity)], max(identity)
        told = ", ".join(f"{update * spent:.2f}: {value / start - 1:+.1%}" for update, value in identity.items())
        samples = config.group.num_cases * config.group.size
        print(f"\n| {name} | {spent / samples * 1e3:.3f} GFLOP a sample | TFLOP: gain {told} |")
        return last * spent if identity[last] >= (1 + GAIN) * start else None


def tflop_of_update(base, config: PolicyConfig) -> float:
    """Count an update of the tiny base by the arithmetic of full-size ones."""
    return load_of(base.entry, config, 2).sample_tflop * config.group.num_cases * config.group.size


def variants() -> dict[str, tuple[PolicyConfig, float]]:
    """Give the settings compared with the default, with its groups, and the multiple of its compute that they may spend."""
    ours = recipe("default", BASE)
    steady = ours.optimizer.model_copy(update={"lr": 3e-3, "schedule": "constant"})
    common = {"group": ours.group, "optimizer": steady, "lora": ours.lora, "ema": ours.ema}
    steps = {
        "optimizer": steady,
        "advantage": ours.advantage.model_copy(update={"hold": 0.0}),
        "loss": ours.loss.model_copy(update={"credit": "steps"}),
        "kl": ours.kl.model_copy(update={"weight": 0.01}),
    }
    return {
        "noise in two steps": (ours.model_copy(update=steps), 2.0),
        "paper": (recipe("paper", BASE).model_copy(update=common), 5.0),
    }


def test_the_default_needs_a_fifth_of_the_compute_for_the_same_gain(tmp_path):
    course = Course(tmp_path)
    reached = course.run("default", recipe("default", BASE), 60, 5)
    assert reached is not None, f"the default did not gain {GAIN:.0%}"
    print(f"default: {GAIN:+.0%} after {reached:.2f} TFLOP")
    for name, (config, times) in variants().items():
        updates = math.ceil(times * reached / tflop_of_update(load_base(BASE), config))
        found = course.run(name, config, updates, max(updates // 4, 1))
        print(
            f"{name}: " + (f"{found / reached:.1f}x the compute" if found else f"not within {times:.0f}x the compute")
        )
        if name == "paper":
            assert found is None or found >= 0.99 * times * reached

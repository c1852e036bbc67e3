"""Does GRPO learn when the reward is right? The oracle as reward, shared against different starting noise.

Prints the mean reward per ten updates of both; with a short window of noise, sharing the start inside a group must win.
"""

import pytest

from idgrpo.bases.load import load_base
from idgrpo.policy.recipes import recipe
from idgrpo.policy.train import train
from idgrpo.records.reference import Reference
from idgrpo.run.folder import RunFolder
from idgrpo.run.metrics import MetricsLog
from idgrpo.tinyworld.cases import make_cases, write_cases
from idgrpo.tinyworld.oracle import identity_by_template
from idgrpo.video.read import read_image

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
NUM_UPDATES = 30


def test_sharing_the_starting_noise_learns_faster(tmp_path):
    cases = write_cases(tmp_path / "cases", make_cases(96, 0))
    person = {read_image(r.images[0]).numpy().tobytes(): r.person for case in cases for r in case.references}

    def oracle(videos, references, prompts):
        people = [
            [Reference(person=person[image.numpy().tobytes()], images=["-"]) for image in images]
            for images in references
        ]
        return [sum(scores) / len(scores) for scores in identity_by_template(videos, people)]

    last = {}
    for noise in ("different", "shared"):
        config = recipe("default", "tiny-phantom")
        config = config.model_copy(
            update={"num_updates": NUM_UPDATES, "rollout": config.rollout.model_copy(update={"noise": noise})}
        )
        with RunFolder.open(tmp_path / noise, fingerprint={"noise": noise}, resume=True) as run:
            train(load_base("tiny-phantom"), cases, oracle, config, run, out=tmp_path / f"{noise}-policy")
            rewards = [float(row["reward_mean"]) for row in MetricsLog.read(run.metrics.path)]
        means = [sum(rewards[first : first + 10]) / 10 for first in range(0, NUM_UPDATES, 10)]
        print(f"{noise}: mean reward per ten updates {', '.join(f'{mean:.3f}' for mean in means)}")
        last[noise] = means[-1]
    assert last["shared"] > last["different"]

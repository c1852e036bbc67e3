"""Identity measures of the evaluation room in training: as rewards of a rollout, and on held-out cases between updates."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.contract import Base
from idgrpo.bases.generate import jobs_of
from idgrpo.bases.sampling import sample_to_folder
from idgrpo.errors import DataError, UsageError
from idgrpo.evaluate.config import EvaluateConfig, FindingConfig
from idgrpo.evaluate.evaluate import evaluate
from idgrpo.evaluate.measure import load_measure
from idgrpo.evaluate.observe import observe
from idgrpo.evaluate.subject import Subject
from idgrpo.people.contract import Finder, levels_of
from idgrpo.people.load import load_finder
from idgrpo.policy.config import EvaluationConfig, PolicyRewardConfig
from idgrpo.policy.scoring import RewardFunction
from idgrpo.records.models import Case


class MeasuredRewards:
    """Gives one reward function per measure; a clip is looked at once for all of them.

    Training on a measure makes it worthless as evidence: evaluate with another finder, or leave it out of the reward.
    """

    def __init__(self, finder: Finder, names: Mapping[str, str], config: FindingConfig | None = None):
        """Load the measures: `names` maps what a reward is called to the name or import string of its measure."""
        self.finder, self.config = finder, config or FindingConfig()
        self.measures = {name: load_measure(target) for name, target in names.items()}
        self._seen: tuple[list[Tensor], list[Subject | None]] = ([], [])

    def rewards(self) -> dict[str, RewardFunction]:
        """Give the reward functions by name."""
        return {name: self._reward(name) for name in self.measures}

    def _reward(self, name: str) -> RewardFunction:
        def reward(videos: list[Tensor], references: list[list[Tensor]], prompts: list[str]) -> Sequence[float | None]:
            subjects = self._subjects(videos, references)
            return [None if subject is None else self.measures[name](subject) for subject in subjects]

        return reward

    def _subjects(self, videos: list[Tensor], references: list[list[Tensor]]) -> list[Subject | None]:
        if len(videos) != len(self._seen[0]) or any(a is not b for a, b in zip(videos, self._seen[0], strict=True)):
            made = [self._subject(video, images) for video, images in zip(videos, references, strict=True)]
            self._seen = (list(videos), made)
        return self._seen[1]

    def _subject(self, video: Tensor, images: list[Tensor]) -> Subject | None:
        """Give None where a reference shows nobody: a failure, never a number."""
        try:
            embedded = np.stack([self.finder.embed_reference(image) for image in images])
        except DataError:
            return None
        return Subject(
            observe(video, self.finder, self.config),
            embedded,
            min_track_share=self.config.min_track_share,
            levels=levels_of(self.finder),
        )


def rewards_of(score: RewardFunction, config: PolicyRewardConfig) -> RewardFunction | dict[str, RewardFunction]:
    """Put the identity measures that `reward.measures` asks for beside the reward model, which is called `rm` then."""
    if not config.measures:
        return score
    measured = MeasuredRewards(load_finder(config.finder), config.measured)
    for name, one in measured.measures.items():
        if one.info.better == "lower" and name not in config.weights:
            raise UsageError(
                f"of the measure {name} lower is better: as a reward it would be driven up",
                fix=f"--set reward.weights.{name}=-1",
            )
    return {"rm": score} | measured.rewards()


def evaluation_of(
    config: EvaluationConfig, cases: Sequence[Case], training: Sequence[Case], folder: Path
) -> Callable[[Base, int], dict[str, float]]:
    """Give the held-out evaluation that the settings ask for; its clips stay in folder/heldout."""
    finder = load_finder(config.finder)
    return held_out(cases, training, finder, folder / "heldout", finder_name=config.finder, seed=config.seed)


def held_out(
    cases: Sequence[Case], training: Sequence[Case], finder: Finder, folder: Path, *, finder_name: str, seed: int = 0
) -> Callable[[Base, int], dict[str, float]]:
    """Give the hook for `train`: sample every held-out case deterministically with one seed and measure it.

    Videos stay in folder/update-000020/ for people to look at. Raises DataError when a case is also trained on.
    """
    shared = {case.id for case in cases} & {case.id for case in training}
    if shared:
        raise DataError(
            f"{len(shared)} held-out cases are trained on as well, e.g. {', '.join(sorted(shared)[:3])}",
            fix="give other cases, of other people, to --eval-cases",
        )

    def measure(base: Base, update: int) -> dict[str, float]:
        jobs = jobs_of(list(cases), seed=seed, num_per_case=1)
        samples = sample_to_folder(base, jobs, folder / f"update-{update:06d}", sampler=SamplerConfig(batch_size=16))
        report = evaluate({"now": samples}, finder, EvaluateConfig(), finder_name=finder_name)
        return {name: figure.value for name, figure in report.means["now"].items()}

    return measure

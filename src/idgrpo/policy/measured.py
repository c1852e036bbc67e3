"""Identity measures of the evaluation room as rewards of a rollout: mean over people, or the worst person."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from idgrpo.errors import DataError
from idgrpo.evaluate.config import FindingConfig
from idgrpo.evaluate.measure import load_measures
from idgrpo.evaluate.observe import observe
from idgrpo.evaluate.subject import Subject
from idgrpo.people.contract import Finder
from idgrpo.policy.scoring import RewardFunction


class MeasuredRewards:
    """Gives one reward function per measure; a clip is looked at once for all of them.

    Training on a measure makes it worthless as evidence: evaluate with another finder, or leave it out of the reward.
    """

    def __init__(self, finder: Finder, names: Sequence[str], config: FindingConfig | None = None):
        self.finder, self.config = finder, config or FindingConfig()
        self.measures = load_measures(list(names))
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
        return Subject(observe(video, self.finder, self.config), embedded, min_track_share=self.config.min_track_share)

"""Rewards of the rollouts: a value or NaN for a failure, never a made-up number."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from idgrpo.errors import MachineError
from idgrpo.policy.config import RewardConfig

log = logging.getLogger(__name__)

# (videos uint8 [frame, 3, height, width], references per video uint8 [3, height, width], prompts) -> value or failure each
RewardFunction = Callable[[list[Tensor], list[list[Tensor]], list[str]], Sequence[object]]

OUTAGES = (OSError, TimeoutError, MachineError)  # a scoring service that is away; other exceptions propagate


class Scorer:
    """Scores videos with one or several rewards; failed samples are tried again, the rest is kept."""

    def __init__(
        self,
        rewards: RewardFunction | Mapping[str, RewardFunction],
        config: RewardConfig,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.rewards = dict(rewards) if isinstance(rewards, Mapping) else {"reward": rewards}
        self.config = config
        self._sleep = sleep

    def score(self, videos: list[Tensor], references: list[list[Tensor]], prompts: list[str]) -> dict[str, Tensor]:
        """Give float64 [sample] per reward name, NaN where scoring failed.

        Failures are tried once more at once; only when fewer than `min_valid_share` are valid does it pause and retry,
        because a single bad sample must not hold up every update while an outage should be waited for.
        """
        return {
            name: self._score_one(name, reward, videos, references, prompts) for name, reward in self.rewards.items()
        }

    def _score_one(
        self,
        name: str,
        reward: RewardFunction,
        videos: list[Tensor],
        references: list[list[Tensor]],
        prompts: list[str],
    ) -> Tensor:
        values = torch.full((len(videos),), torch.nan, dtype=torch.float64)
        for attempt in range(self.config.num_retries + 1):
            missing = [index for index in range(len(videos)) if not values[index].isfinite()]
            if not missing:
                break
            valid_share = 1 - len(missing) / len(videos)
            if attempt >= 1 and valid_share < self.config.min_valid_share:
                log.warning("reward %s: %d of %d videos not scored; waiting %g s", name, len(missing), len(videos),
                            self.config.retry_wait_s)  # fmt: skip
                self._sleep(self.config.retry_wait_s)
            elif attempt >= 2:
                break
            answers = self._call(
                name,
                reward,
                [videos[index] for index in missing],
                [references[index] for index in missing],
                [prompts[index] for index in missing],
            )
            for index, answer in zip(missing, answers, strict=True):
                values[index] = value_or_nan(answer)
        return values

    def _call(
        self, name: str, reward: RewardFunction, videos: list, references: list, prompts: list
    ) -> Sequence[object]:
        try:
            answers = reward(videos, references, prompts)
        except OUTAGES as error:
            log.warning("reward %s failed: %s", name, error)
            return [None] * len(videos)
        if len(answers) != len(videos):
            raise ValueError(f"reward {name} gave {len(answers)} answers for {len(videos)} videos")
        return answers


def value_or_nan(answer: object) -> float:
    """Give a finite number as it is and anything else (a RewardFailure, None, inf) as NaN."""
    if isinstance(answer, bool) or not isinstance(answer, (int, float)):
        return math.nan
    return float(answer) if math.isfinite(answer) else math.nan

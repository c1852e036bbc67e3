"""Rewards of clips: a value or NaN for a failure, never a made-up number; and what one person standing for all earns."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from idgrpo.errors import UsageError
from idgrpo.policy.config import PolicyRewardConfig
from idgrpo.reward.functions import OUTAGES

log = logging.getLogger(__name__)

# (videos uint8 [frame, 3, height, width], references per video uint8 [3, height, width], prompts) -> value or failure each
RewardFunction = Callable[[list[Tensor], list[list[Tensor]], list[str]], Sequence[object]]


def contrast_reward(own: Sequence[float], doubled: Sequence[Sequence[float]], weight: float) -> list[float]:
    """Compute r - lambda D, D = mean over people i of r(clip, references with person i standing for all).

    own: r(clip, references) per clip; doubled: per clip one score for each of its people (none for a single person, whose
    score stays plain). A reward that only asks "does somebody here look like somebody asked for?" pays r and D alike; what
    is left over is paid for showing each person as themselves.
    """
    return [
        score - weight * sum(others) / len(others) if others else score
        for score, others in zip(own, doubled, strict=True)
    ]


def contrasted(reward: RewardFunction, weight: float) -> RewardFunction:
    """Make a reward contrastive; all reference sets of a call are scored in one call of the reward.

    A clip one of whose sets fails gets that failure as its answer. weight 0 gives the reward itself.
    """
    if weight == 0:
        return reward

    def score(videos: list[Tensor], references: list[list[Tensor]], prompts: list[str]) -> Sequence[object]:
        sets = [[people, *([person] * len(people) for person in people if len(people) > 1)] for people in references]
        counts = [len(one) for one in sets]
        answers = reward(
            [video for video, count in zip(videos, counts, strict=True) for _ in range(count)],
            [people for one in sets for people in one],
            [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)],
        )
        if len(answers) != sum(counts):
            raise ValueError(f"the reward gave {len(answers)} answers for {sum(counts)} clips")
        ends = list(itertools.accumulate(counts))
        parts = [list(answers[end - count : end]) for end, count in zip(ends, counts, strict=True)]
        return [_contrast_of(part, weight) for part in parts]

    return score


def _contrast_of(answers: list[object], weight: float) -> object:
    values = [value_or_nan(answer) for answer in answers]
    failed = [answer for answer, value in zip(answers, values, strict=True) if math.isnan(value)]
    return failed[0] if failed else contrast_reward(values[:1], [values[1:]], weight)[0]


def check_weights(weights: Mapping[str, float], names: Sequence[str]) -> None:
    """Refuse weights of what is no reward: a misspelt one would weigh 1. Raises UsageError."""
    if strange := sorted(set(weights) - set(names)):
        raise UsageError(
            f"reward.weights names {', '.join(strange)}, which is no reward of this run (rewards: {', '.join(names)})",
            fix="correct reward.weights",
        )


class RewardScorer:
    """Scores videos with one or several rewards; failed samples are tried again, the rest is kept.

    With `reward.contrast` every reward but the identity measures is made contrastive (`contrasted`).
    """

    def __init__(
        self,
        rewards: RewardFunction | Mapping[str, RewardFunction],
        config: PolicyRewardConfig,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ):
        named = dict(rewards) if isinstance(rewards, Mapping) else {"reward": rewards}
        check_weights(config.weights, list(named))
        self.rewards = {
            name: reward if name in config.measured else contrasted(reward, config.contrast)
            for name, reward in named.items()
        }
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

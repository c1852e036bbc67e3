import math
from dataclasses import dataclass

import pytest
import torch

from idgrpo.policy.config import RewardConfig
from idgrpo.policy.scoring import Scorer, value_or_nan

VIDEOS = [torch.full((1, 3, 2, 2), i, dtype=torch.uint8) for i in range(4)]
REFERENCES = [[] for _ in VIDEOS]
PROMPTS = ["p"] * 4


@dataclass
class RewardFailure:
    reason: str


def score(reward, **settings):
    waits = []
    scorer = Scorer(reward, RewardConfig(**settings), sleep=waits.append)
    return scorer.score(VIDEOS, REFERENCES, PROMPTS), waits


def test_a_value_or_nothing():
    assert value_or_nan(1) == 1.0
    for answer in (math.nan, math.inf, None, "1.0", True, RewardFailure("away")):
        assert math.isnan(value_or_nan(answer))


def test_failed_samples_alone_are_tried_again_once_without_waiting():
    calls = []

    def reward(videos, references, prompts):
        calls.append(len(videos))
        return [RewardFailure("bad") if int(v.max()) == 2 else float(v.max()) for v in videos]

    values, waits = score(reward)
    assert calls == [4, 1] and waits == []
    assert values["reward"].isfinite().tolist() == [True, True, False, True]
    assert values["reward"][3] == 3.0


def test_outage_is_waited_for():
    calls = []

    def reward(videos, references, prompts):
        calls.append(len(videos))
        if len(calls) < 4:
            raise ConnectionError("scoring service away")
        return [1.0] * len(videos)

    values, waits = score(reward, num_retries=3, retry_wait_s=7)
    assert len(calls) == 4 and waits == [7, 7, 7]
    assert values["reward"].tolist() == [1.0] * 4


def test_outage_without_end_gives_nan_never_zero():
    def reward(videos, references, prompts):
        raise TimeoutError

    values, waits = score(reward, num_retries=2)
    assert values["reward"].isnan().all() and len(waits) == 2


def test_bugs_of_a_reward_are_not_swallowed():
    def reward(videos, references, prompts):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        score(reward)
    with pytest.raises(ValueError, match="1 answers for 4"):
        score(lambda videos, references, prompts: [1.0])


def test_several_rewards_by_name():
    rewards = {"rm": lambda v, r, p: [1.0] * len(v), "worst": lambda v, r, p: [2.0] * len(v)}
    values, _ = score(rewards)
    assert {name: value.tolist() for name, value in values.items()} == {"rm": [1.0] * 4, "worst": [2.0] * 4}

"""Identity measures as rewards, beside a reward model, through the trainer's own scorer."""

import pytest
import torch
from policy_setting import ColourFinder

from idgrpo.errors import DataError, UsageError
from idgrpo.policy.config import PolicyRewardConfig
from idgrpo.policy.measured import MeasuredRewards, rewards_of
from idgrpo.policy.scoring import RewardScorer
from idgrpo.stages.rewards import check_rewards, find_rewards
from idgrpo.store.store import Store

NAMES, IDENTITY = {"identity": "identity", "worst": "worst"}, {"identity": "identity"}
RED, BLUE = (torch.zeros(3, 8, 8, dtype=torch.uint8) for _ in range(2))
RED[0], BLUE[2] = 200, 200


class Counting(ColourFinder):
    calls = 0

    def find(self, clip):
        self.calls += 1
        return super().find(clip)


def clip(image):
    return image.expand(4, 3, 8, 8).contiguous()


def test_mean_and_worst_follow_the_people_and_a_clip_is_looked_at_once():
    finder = Counting()
    scorer = RewardScorer(MeasuredRewards(finder, NAMES).rewards(), PolicyRewardConfig())
    videos = [clip(RED), clip(BLUE)]
    scores = scorer.score(videos, [[RED], [RED, BLUE]], ["a", "b"])
    assert set(scores) == {"identity", "worst"} and finder.calls == 2
    assert scores["identity"].tolist() == pytest.approx([1.0, 0.5], abs=1e-3)  # one of two people is there
    assert scores["worst"].tolist() == pytest.approx([1.0, 0.0], abs=1e-3)


def test_other_clips_are_looked_at_again():
    rewards = MeasuredRewards(Counting(), IDENTITY).rewards()["identity"]
    same = rewards([clip(RED)], [[RED]], ["a"])[0]
    assert rewards([clip(BLUE)], [[RED]], ["a"])[0] < same


def test_reference_without_a_face_is_a_failure_not_a_number():
    class Blind(ColourFinder):
        def embed_reference(self, image):
            raise DataError("nobody here")

    assert MeasuredRewards(Blind(), IDENTITY).rewards()["identity"]([clip(RED)], [[RED]], ["a"]) == [None]


def test_any_measure_can_be_a_reward_also_a_function_that_is_marked_as_one():
    sources = {"separation": "separation", "anybody": "planted:anybody"}
    config = PolicyRewardConfig(sources=sources, finder="policy_setting:ColourFinder")
    rewards = rewards_of(lambda videos, references, prompts: [0.0], config)
    assert isinstance(rewards, dict) and list(rewards) == ["rm", "separation", "anybody"]
    (alike,) = rewards["anybody"]([clip(RED)], [[RED, BLUE]], ["a"])
    assert alike == pytest.approx(0.25, abs=0.02)  # one of two people is found, as RED and hardly as BLUE
    # the contrast is for the reward model: measures ask about everybody once
    plain = PolicyRewardConfig(sources={"anybody": "planted:anybody"}, contrast=1.0)
    rewards = MeasuredRewards(ColourFinder(), plain.measured).rewards()
    assert RewardScorer(rewards, plain).score([clip(RED)], [[RED, BLUE]], ["a"])["anybody"].item() == alike


def test_what_is_no_measure_is_none_of_the_measured_rewards():
    for source in (
        "planted:nobody",
        "no_such_module:x",
        "policy_setting:write_setting",
        "seperation",
        "http://h:1",
        "rm@sha256:1",
    ):
        assert not PolicyRewardConfig(sources={"mine": source}).measured


def test_what_should_be_low_is_no_reward_unless_its_weight_says_so(tmp_path):
    rewards = find_rewards(Store(tmp_path), {"confusion": "confusion"})
    with pytest.raises(UsageError, match="driven up"):
        check_rewards(rewards, {})
    check_rewards(rewards, {"confusion": -1.0})
    config = PolicyRewardConfig(sources={"confusion": "confusion"}, finder="policy_setting:ColourFinder")
    assert set(rewards_of(lambda videos, references, prompts: [0.0], config)) == {"rm", "confusion"}

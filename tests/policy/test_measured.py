"""Identity measures as rewards, beside a reward model, through the trainer's own scorer."""

import pytest
import torch
from policy_setting import ColourFinder

from idgrpo.errors import DataError
from idgrpo.policy.config import PolicyRewardConfig
from idgrpo.policy.measured import MeasuredRewards
from idgrpo.policy.scoring import RewardScorer

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
    scorer = RewardScorer(MeasuredRewards(finder, ["identity", "worst"]).rewards(), PolicyRewardConfig())
    videos = [clip(RED), clip(BLUE)]
    scores = scorer.score(videos, [[RED], [RED, BLUE]], ["a", "b"])
    assert set(scores) == {"identity", "worst"} and finder.calls == 2
    assert scores["identity"].tolist() == pytest.approx([1.0, 0.5], abs=1e-3)  # one of two people is there
    assert scores["worst"].tolist() == pytest.approx([1.0, 0.0], abs=1e-3)


def test_other_clips_are_looked_at_again():
    rewards = MeasuredRewards(Counting(), ["identity"]).rewards()["identity"]
    same = rewards([clip(RED)], [[RED]], ["a"])[0]
    assert rewards([clip(BLUE)], [[RED]], ["a"])[0] < same


def test_reference_without_a_face_is_a_failure_not_a_number():
    class Blind(ColourFinder):
        def embed_reference(self, image):
            raise DataError("nobody here")

    assert MeasuredRewards(Blind(), ["identity"]).rewards()["identity"]([clip(RED)], [[RED]], ["a"]) == [None]

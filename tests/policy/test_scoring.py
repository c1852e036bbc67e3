import math
from dataclasses import dataclass

import pytest
import torch

from idgrpo.errors import UsageError
from idgrpo.policy.config import PolicyRewardConfig
from idgrpo.policy.scoring import RewardScorer, contrast_reward, contrasted, value_or_nan

VIDEOS = [torch.full((1, 3, 2, 2), i, dtype=torch.uint8) for i in range(4)]
REFERENCES = [[] for _ in VIDEOS]
PROMPTS = ["p"] * 4


@dataclass
class RewardFailure:
    reason: str


def score(reward, **settings):
    waits = []
    scorer = RewardScorer(reward, PolicyRewardConfig(**settings), sleep=waits.append)
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


# -- contrast: what one person standing for all earns is taken off ------------------------------------------------------

PEOPLE = [torch.full((3, 2, 2), value, dtype=torch.uint8) for value in (10, 20, 30, 40)]


def looks(videos, references, prompts):
    """Score by the pictures alone, so that every reference set has a score of its own: sum of place * value."""
    return [sum((1 + k) * float(image[0, 0, 0]) for k, image in enumerate(images)) for images in references]


def test_the_contrast_is_the_formula():
    assert contrast_reward([3.0, 5.0], [[1.0, 2.0], []], 0.5) == [3.0 - 0.5 * 1.5, 5.0]


@pytest.mark.parametrize("num_people", [1, 2, 3, 4])
def test_each_person_stands_for_all_once_and_a_single_person_is_scored_plainly(num_people):
    calls = []

    def reward(videos, references, prompts):
        calls.append([[int(image[0, 0, 0]) for image in images] for images in references])
        return looks(videos, references, prompts)

    people = PEOPLE[:num_people]
    (value,) = contrasted(reward, 0.5)(VIDEOS[:1], [people], PROMPTS[:1])
    values = [int(image[0, 0, 0]) for image in people]
    doubled = [[one] * num_people for one in values] if num_people > 1 else []
    assert calls == [[values, *doubled]]  # all sets in one call
    triangle = sum(range(1, num_people + 1))
    own = sum((1 + k) * one for k, one in enumerate(values))
    expected = own - (0.5 * sum(triangle * one for one in values) / num_people if num_people > 1 else 0.0)
    assert value == pytest.approx(expected)


def test_one_call_for_all_clips_and_numbers_of_people():
    calls = []

    def reward(videos, references, prompts):
        calls.append((len(videos), [int(video.max()) for video in videos], list(prompts)))
        return looks(videos, references, prompts)

    references = [PEOPLE[:1], PEOPLE[:2], PEOPLE[:3]]
    together = contrasted(reward, 1.0)(VIDEOS[:3], references, ["a", "b", "c"])
    assert calls == [(1 + 3 + 4, [0, 1, 1, 1, 2, 2, 2, 2], list("abbbcccc"))]
    alone = [contrasted(looks, 1.0)([v], [r], [p])[0] for v, r, p in zip(VIDEOS[:3], references, "abc", strict=True)]
    assert together == alone


def test_a_failure_in_one_of_the_sets_is_a_failure_of_that_clip():
    def reward(videos, references, prompts):
        doubled_second = [len(images) == 2 and torch.equal(images[0], images[1]) and int(images[0].max()) == 20
                          for images in references]  # fmt: skip
        answers = looks(videos, references, prompts)
        return [RewardFailure("no") if bad and int(video.max()) == 1 else answer
                for bad, video, answer in zip(doubled_second, videos, answers, strict=True)]  # fmt: skip

    scorer = RewardScorer(reward, PolicyRewardConfig(contrast=0.5))
    values = scorer.score(VIDEOS[:3], [PEOPLE[:2]] * 3, PROMPTS[:3])["reward"]
    assert values.isfinite().tolist() == [True, False, True]
    with pytest.raises(ValueError, match="1 answers for 3"):
        contrasted(lambda v, r, p: [1.0], 0.5)(VIDEOS[:1], [PEOPLE[:2]], PROMPTS[:1])


def test_a_reward_for_looking_like_anybody_is_worth_nothing_and_an_honest_one_keeps_its_order():
    """Planted rewards on clips that show a (share of the first person, share of the second) in each of two places."""

    def shown(video):  # [place, person]: how much of each person stands in each place
        return video[0, 0].double() / 255

    def anybody(videos, references, prompts):
        wanted = [[int(image.max()) // 10 - 1 for image in images] for images in references]
        return [
            float(max(shown(video)[:, who].max() for who in people))
            for video, people in zip(videos, wanted, strict=True)
        ]

    def honest(videos, references, prompts):
        wanted = [[int(image.max()) // 10 - 1 for image in images] for images in references]
        return [float(sum(shown(video)[place, who] for place, who in enumerate(people))) / 2
                for video, people in zip(videos, wanted, strict=True)]  # fmt: skip

    def clip(shares):
        return (torch.tensor(shares) * 255).round().to(torch.uint8).expand(1, 3, 2, 2).contiguous()

    right, blended, doubled = clip([[1, 0], [0, 1]]), clip([[0.7, 0.7], [0.7, 0.7]]), clip([[1, 0], [1, 0]])
    clips, references = [right, blended, doubled], [PEOPLE[:2]] * 3
    plain = honest(clips, references, PROMPTS[:3])
    assert plain[1] > plain[2] and plain[1] > 0.6 * plain[0]  # blending pays
    told_apart = contrasted(honest, 1.0)(clips, references, PROMPTS[:3])
    assert told_apart == pytest.approx([0.5, 0.0, 0.0], abs=0.01)
    flat = contrasted(anybody, 1.0)([right, blended], references[:2], PROMPTS[:2])
    assert flat == pytest.approx([0.0, 0.0], abs=0.01)  # everything it pays for, one person standing for all earns too


def test_a_setting_makes_the_reward_contrastive_but_not_the_measures():
    scorer = RewardScorer(
        {"rm": looks, "identity": looks}, PolicyRewardConfig(contrast=0.5, sources={"identity": "identity"})
    )
    values = scorer.score(VIDEOS[:1], [PEOPLE[:2]], PROMPTS[:1])
    assert values["identity"].item() == 50 and values["rm"].item() == 50 - 0.5 * (30 + 60) / 2


def test_weights_of_rewards_that_do_not_exist_are_refused():
    with pytest.raises(UsageError, match="names worst, which is no reward of this run"):
        RewardScorer(looks, PolicyRewardConfig(weights={"worst": 1.0}))

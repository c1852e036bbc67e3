"""Probes pass and fail on scorers whose behaviour is known: pure functions of the pixels in place of a model."""

import pytest
from preferences import write_preferences

from idgrpo.reward.metrics import Judged
from idgrpo.reward.preprocess import Preprocessing
from idgrpo.reward.probes import run_probes
from idgrpo.reward.score import RewardFailure


class Builder:
    settings = Preprocessing(num_frames=4)


class Scorer:
    """Score by a function of one clip and its photos, as a reward model does."""

    builder = Builder()

    def __init__(self, function):
        self.function = function

    def score(self, videos, references, prompts, fps=None):
        return [
            self.function(v.frames.float(), [p.float() for p in r]) for v, r in zip(videos, references, strict=True)
        ]


def likeness(video, photos) -> float:
    """Compare each photo's colour with the nearest column of the first frame: blind to order, knows its people."""
    columns = video[0].mean(1).T
    return -float(sum((columns - p.mean((1, 2))).abs().sum(1).min() for p in photos))


def binding(video, photos) -> float:
    """Compare the two halves of the first frame with the photos, each half with one of its own: blind to order, no doubles."""
    halves = [half.mean((1, 2)) for half in video[0].chunk(2, -1)]
    means = [photo.mean((1, 2)) for photo in photos]
    return -min(
        float(sum((half - mean).abs().sum() for half, mean in zip(halves, order, strict=True)))
        for order in (means, means[::-1])
    )


def motion(video, photos) -> float:
    return float(video.std(0).mean())


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> list[Judged]:
    pairs = write_preferences(tmp_path_factory.mktemp("data"), 6)
    return [Judged(p, 1.0 if p.label == "a" else -1.0) for p in pairs]


def rates(function, judged) -> dict[str, float]:
    return {name: probe["pass_rate"] for name, probe in run_probes(Scorer(function), judged).items()}


def test_an_honest_scorer_passes(judged) -> None:
    found = rates(lambda v, p: binding(v, p) + 100 * min(motion(v, p), 1), judged)
    assert found == {"reference_order": 1.0, "stranger_reference": 1.0, "one_for_all": 1.0, "static_copy": 1.0}


def test_each_probe_fails_where_it_should(judged) -> None:
    assert rates(lambda v, p: float(p[0].mean()), judged)["reference_order"] == 0.0
    assert rates(lambda v, p: 2e-4 if p[0].mean() > p[-1].mean() else 0.0, judged)["reference_order"] == 0.0
    assert rates(lambda v, p: 5e-5 if p[0].mean() > p[-1].mean() else 0.0, judged)["reference_order"] == 1.0
    assert rates(motion, judged)["stranger_reference"] == 0.0  # never looks at the photos
    assert rates(lambda v, p: -motion(v, p), judged)["static_copy"] == 0.0
    assert rates(lambda v, p: -likeness(v, p), judged)["stranger_reference"] == 0.0
    assert rates(motion, judged)["one_for_all"] == 0.0
    assert rates(likeness, judged)["one_for_all"] < 1.0  # being like anybody will do
    assert rates(lambda v, p: min(likeness(v, [x]) for x in p), judged)["one_for_all"] == 0.0


def test_a_clip_of_one_person_knows_no_doubles(judged) -> None:
    alone = [Judged(j.preference.model_copy(update={"references": j.preference.references[:1]}), j.gap) for j in judged]
    assert "one_for_all" not in rates(likeness, alone)


def test_a_failure_is_no_pass(judged) -> None:
    def frozen_fails(video, photos):
        return RewardFailure("no motion") if motion(video, photos) == 0 else likeness(video, photos)

    assert rates(frozen_fails, judged)["static_copy"] == 0.0
    assert rates(lambda v, p: RewardFailure("down"), judged) == {}


def test_missing_people_are_judged_by_the_gaps_of_their_pairs(judged) -> None:
    def with_distortion(name: str, gaps: list[float]) -> list[Judged]:
        preferences = [j.preference.model_copy(update={"distortion": name, "label": "a"}) for j in judged]
        return [Judged(p, gap) for p, gap in zip(preferences, gaps, strict=False)]

    for name in ("drop_person", "occlude", "missing", "remove"):
        probe = run_probes(Scorer(likeness), with_distortion(name, [1.0, 1.0, -1.0, 0.0]))["missing_person"]
        assert probe == {"pass_rate": 0.5, "num_clips": 4}
    assert "missing_person" not in run_probes(Scorer(likeness), with_distortion("blur", [1.0]))


def test_without_another_case_there_is_no_stranger(judged) -> None:
    assert "stranger_reference" not in rates(likeness, judged[:1])
    same = [j.preference.model_copy(update={"references": judged[0].preference.references}) for j in judged]
    assert "stranger_reference" not in rates(likeness, [Judged(p, 1.0) for p in same])

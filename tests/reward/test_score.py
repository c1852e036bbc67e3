"""Scoring: each clip's own frame rate, only the frames that are seen, and nothing computed twice."""

import pytest
import torch
from preferences import whole_clip, write_preferences
from scoring import clips, untrained
from tiny_vlm import write_tiny_qwen2_vl, write_tiny_qwen3_vl, write_tiny_vlm

from idgrpo.errors import DataError
from idgrpo.reward import data, vision
from idgrpo.reward.data import clips_of, read_clip
from idgrpo.reward.inputs import SeenClip
from idgrpo.reward.score import RewardFailure, clip_features, one_for_all, score_sets
from idgrpo.video.write import write_video

WRITERS = {"qwen2_5_vl": write_tiny_vlm, "qwen2_vl": write_tiny_qwen2_vl, "qwen3_vl": write_tiny_qwen3_vl}
COMPACT = {"num_frames": 4, "min_pixels": 1024, "max_pixels": 1024, "template_name": "compact_v1"}


@pytest.fixture(scope="module", params=WRITERS)
def model(request, tmp_path_factory):
    return untrained(WRITERS[request.param](tmp_path_factory.mktemp(request.param) / "vlm"), **COMPACT)


@pytest.fixture(scope="module")
def qwen25(tmp_path_factory):
    return untrained(write_tiny_vlm(tmp_path_factory.mktemp("vlm") / "vlm"), **COMPACT)


@pytest.fixture
def looks(monkeypatch) -> list[int]:
    """Count the pictures that go through the vision tower."""
    counted: list[int] = []

    def counting(backbone, rows, grids):
        counted.append(len(grids))
        return vision.look(backbone, rows, grids)

    monkeypatch.setattr("idgrpo.reward.score.look", counting)
    return counted


def features_in_one_forward(model, videos, photos, prompts, fps=None) -> torch.Tensor:
    """The features as training computes them: pixels and text in one forward."""
    with torch.inference_mode():
        return model.network.features(model.builder.build(videos, photos, prompts, fps=fps))


def test_what_is_looked_up_equals_one_forward(model) -> None:
    videos, photos, prompts = clips(3)
    photos[1] = photos[1][:1]
    videos[2] = torch.cat([videos[2], videos[2]], dim=-1)  # another shape
    videos[1] = videos[0]
    expected = features_in_one_forward(model, videos, photos, prompts, fps=[None, 8.0, 24.0])
    found = clip_features(model.network, model.builder, videos, photos, prompts, batch=2, fps=[None, 8.0, 24.0])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def test_the_tower_is_its_own_again(model) -> None:
    videos, photos, prompts = clips(1)
    before = features_in_one_forward(model, videos, photos, prompts)
    model.score(videos, photos, prompts)
    assert torch.equal(features_in_one_forward(model, videos, photos, prompts), before)


def test_the_frame_rate_changes_the_score(model) -> None:
    videos, photos, prompts = clips(1)
    by_rate = [model.score(videos, photos, prompts, fps)[0] for fps in (8, 16.0, 24, None)]
    assert by_rate[1] == by_rate[3]  # 16 is the default
    settings = model.builder.settings
    if settings.second_per_grid is not None and not settings.row_by_row:
        assert len(set(by_rate)) == 1  # Qwen2-VL counts rows of frames, not seconds
    else:
        assert len(set(by_rate)) == 3
        together = model.score(videos * 3, photos * 3, prompts * 3, [8, 24, None])
        assert together == pytest.approx([by_rate[0], by_rate[2], by_rate[3]], abs=1e-5)


@pytest.mark.parametrize("fps", [0, -1.0, float("nan"), float("inf")])
def test_a_frame_rate_that_is_none_is_a_failure_of_its_clip(qwen25, fps) -> None:
    videos, photos, prompts = clips(2)
    first, second = qwen25.score(videos, photos, prompts, [fps, None])
    assert isinstance(first, RewardFailure) and "frame rate" in first.reason and isinstance(second, float)
    with pytest.raises(DataError, match="1 frame rates for 2 videos"):
        qwen25.score(videos, photos, prompts, [16])


def test_a_file_brings_its_own_frame_rate(qwen25, tmp_path) -> None:
    pair = write_preferences(tmp_path, 1)[0]
    scores = []
    for fps in (8, 24):
        path = tmp_path / f"{fps}.mp4"
        write_video(path, whole_clip(clips_of(pair)[0])[0], fps=fps)
        clip = clips_of(pair.model_copy(update={"video_a": str(path)}))[0]
        seen, photos = read_clip(clip, qwen25.builder.settings)
        assert seen.fps == fps
        scores += qwen25.score([seen], [photos], ["x"])
    assert scores[0] != scores[1]


def test_only_the_frames_that_are_seen_are_decoded(qwen25, tmp_path, monkeypatch) -> None:
    pair = write_preferences(tmp_path, 1)[0]
    asked, read = [], data.read_video

    def counting(path, indices=None):
        asked.append(indices)
        return read(path, indices=indices)

    monkeypatch.setattr(data, "read_video", counting)
    seen, photos = read_clip(clips_of(pair)[0], qwen25.builder.settings)
    assert asked == [[0, 3, 5, 8]] and seen.frames.shape[0] == 4 and seen.num_clip_frames == 9
    video, _ = whole_clip(clips_of(pair)[0])
    assert qwen25.score([seen], [photos], ["x"]) == qwen25.score([video], [photos], ["x"], 16)
    other = SeenClip(seen.frames[:3], 9)
    assert "looks at 4" in qwen25.score([other], [photos], ["x"])[0].reason


def test_what_occurs_twice_is_encoded_once(qwen25, looks) -> None:
    videos, photos, _ = clips(3)
    group = [photos[0]] * 3
    alone = [qwen25.score([v], [p], ["x"])[0] for v, p in zip(videos, group, strict=True)]
    looks.clear()
    assert qwen25.score(videos, group, ["x"] * 3) == pytest.approx(alone, abs=1e-5)
    assert sum(looks) == 3 + 2  # a group of three clips of one case


def test_reference_sets_of_a_clip_share_its_features(qwen25, looks) -> None:
    videos, photos, prompts = clips(2)
    sets = [[people, *one_for_all(people)] for people in photos]
    assert [len(s) for s in sets] == [3, 3] and sets[0][1][0] is sets[0][1][1] is photos[0][0]
    alone = [[qwen25.score([v], [p], [t])[0] for p in s] for v, s, t in zip(videos, sets, prompts, strict=True)]
    looks.clear()
    found = score_sets(qwen25, videos, sets, prompts)
    assert sum(looks) == 2 + 4
    for ours, theirs in zip(found, alone, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5) and len(set(ours)) == 3
    with pytest.raises(DataError):
        score_sets(qwen25, videos, sets[:1], prompts)


def test_one_photo_for_everybody_has_one_order(tmp_path, looks) -> None:
    model = untrained(write_tiny_vlm(tmp_path / "vlm"), **COMPACT, reference_order="average")
    videos, photos, prompts = clips(1, people=3)
    rows = []
    tokens = model.builder.tokens

    def counting(clips_, *rest):
        rows.append(len(clips_))
        return tokens(clips_, *rest)

    model.builder.tokens = counting
    score_sets(model, videos, [[photos[0], *one_for_all(photos[0])]], prompts)
    assert sum(rows) == 6 + 3


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda v, p, t: (v[..., :0], p, t), "no pixels"),
        (lambda v, p, t: (v[..., :0, :], p, t), "no pixels"),
        (lambda v, p, t: (v, [p[0], torch.zeros(3, 1, 300, dtype=torch.uint8)], t), "too long and thin"),
        (lambda v, p, t: (v, [p[0], torch.zeros(3, 0, 8, dtype=torch.uint8)], t), "no pixels"),
        (lambda v, p, t: (v, [p[0], torch.zeros(0)], t), "reference must be uint8"),
        (lambda v, p, t: (torch.zeros(()), p, t), "video must be uint8"),
        (lambda v, p, t: (v, p, "x" * 200_000), "characters is too long"),
        (lambda v, p, t: (v, p, "x" * 90_000), "tokens"),
        (lambda v, p, t: (v, p, "\ud800"), "prompt"),
    ],
)
def test_a_clip_that_cannot_be_scored_spares_the_others(qwen25, spoil, reason) -> None:
    videos, photos, _ = clips(3)
    prompts = ["{prompt}"] * 3
    expected = qwen25.score(videos, photos, prompts)
    videos[1], photos[1], prompts[1] = spoil(videos[1], photos[1], prompts[1])
    found = qwen25.score(videos, photos, prompts)
    assert isinstance(found[1], RewardFailure) and reason in found[1].reason
    assert [found[0], found[2]] == pytest.approx([expected[0], expected[2]], abs=1e-5)

"""The photos in a video's place, at rest: pairs that nobody has to label."""

import torch
from preferences import whole_clip, write_preferences
from test_reward_training import run_training, settings

from idgrpo.reward.data import Clip, PairClips, clips_of, copies_of, frozen_copy
from idgrpo.reward.features import feature_folder
from idgrpo.reward.preprocess import Preprocessing


def test_the_better_clip_of_a_share_of_the_decided_pairs_meets_its_own_photos(tmp_path) -> None:
    pairs = write_preferences(tmp_path, 40, ties=4)
    copies = copies_of(pairs, 0.25)
    assert len(copies) == round(0.25 * sum(p.label in "ab" for p in pairs))
    assert copies == copies_of(pairs, 0.25) and not copies_of(pairs, 0)
    known = {f"{p.pair_id}.copy": p for p in pairs}
    for copy in copies:
        pair = known[copy.pair_id]
        better, photos = clips_of(copy)
        assert better == clips_of(pair)[0 if pair.label == "a" else 1]
        assert photos == Clip(better.video, better.photos, better.prompt, at_rest=True) and copy.label == "a"
        assert copy.source == pair.source and copy.distortion == "static_copy"
        (video, references), (still, _) = whole_clip(better), whole_clip(photos)
        assert torch.equal(still, frozen_copy(video, references))
        assert (still == still[0]).all() and still.shape == video.shape
    seen = Preprocessing(num_frames=4)
    still = PairClips(copies, [0] * len(copies), [1.0] * len(copies), [0], seen)[0]["videos"][1]
    whole = whole_clip(clips_of(copies[0])[1])[0]
    assert torch.equal(still.frames, whole[seen.frame_indices(len(whole))]) and still.num_clip_frames == len(whole)


def test_features_of_a_clip_and_of_its_photos_are_kept_apart(tmp_path) -> None:
    better, photos = clips_of(copies_of(write_preferences(tmp_path, 4), 1.0)[0])
    assert feature_folder(tmp_path, "model", [better], 4) != feature_folder(tmp_path, "model", [photos], 4)


def test_a_model_that_met_copies_ranks_them_below_the_clips_of_people_it_never_saw(tiny_vlm, tmp_path) -> None:
    pairs = write_preferences(tmp_path / "data", 40)
    card = run_training(pairs, settings(tiny_vlm, data={"copies": 1.0}), tmp_path / "with")
    assert card["probes"]["static_copy"]["pass_rate"] == 1.0
    plain = run_training(pairs, settings(tiny_vlm, data={"copies": 0.0}), tmp_path / "without")
    assert card["num_training_pairs"] == 2 * plain["num_training_pairs"]
    assert plain["probes"]["static_copy"]["pass_rate"] < 1.0  # a random reader likes some copies better

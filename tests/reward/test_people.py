"""Votes on who is wrong in training: pairs about one person alone, their weight, and what is said without any."""

import pytest
import torch
from preferences import write_preferences

from idgrpo.errors import DataError
from idgrpo.reward.config import RewardModelConfig
from idgrpo.reward.data import clips_of, person_pairs
from idgrpo.reward.losses import load_loss
from idgrpo.reward.train import train
from idgrpo.reward.trainer import pair_objective
from idgrpo.run.folder import RunFolder


def asked(pair, a, b):
    return pair.model_copy(update={"people": {"a": a, "b": b}})


def test_a_person_kept_on_one_side_only_makes_a_pair_with_their_photo_alone(tmp_path):
    pair = next(p for p in write_preferences(tmp_path, 8) if len(p.references) == 2)
    first, second = pair.references
    (made,) = person_pairs([asked(pair, ["kept", "kept"], ["kept", "mixed"])])
    assert made.label == "a" and made.references == [second]
    assert [clip.photos for clip in clips_of(made)] == [(second.images[0],)] * 2
    assert [clip.video for clip in clips_of(made)] == [pair.video_a, pair.video_b]
    found = person_pairs([asked(pair, ["missing", "kept"], ["kept", "changed"])])
    assert [(p.label, p.references) for p in found] == [("b", [first]), ("a", [second])]
    silent = [
        pair,
        asked(pair, ["kept", "kept"], ["kept", "kept"]),
        asked(pair, ["mixed", "missing"], ["changed", "mixed"]),
        asked(pair, ["kept", None], [None, "changed"]),
    ]
    assert person_pairs(silent) == []


def test_pairs_count_by_their_weight():
    objective = pair_objective(load_loss("bradley_terry"), {})
    gap, labels = torch.tensor([0.0, 1.0]), torch.tensor([0, 0])
    plain = objective({"gap": gap}, labels)
    assert objective({"gap": gap, "weight": torch.ones(2)}, labels) == plain
    weighed = objective({"gap": gap, "weight": torch.tensor([1.0, 3.0])}, labels)
    each = [float(objective({"gap": gap[i : i + 1]}, labels[i : i + 1])) for i in (0, 1)]
    assert float(weighed) == pytest.approx((each[0] + 3 * each[1]) / 2)


@pytest.mark.parametrize("mode", ["head", "full"])
def test_training_takes_them_where_they_weigh_and_the_probe_tells_how_they_are_ordered(tmp_path, tiny_vlm, mode):
    pairs = [
        asked(p, *((["kept"] * len(p.references), ["changed"] * len(p.references)) if p.label == "a" else
                   (["missing"] * len(p.references), ["kept"] * len(p.references))))
        for p in write_preferences(tmp_path, 24) if p.label in "ab"
    ]  # fmt: skip

    def card(weight: float) -> dict:
        config = RewardModelConfig.model_validate(
            {"vlm": str(tiny_vlm), "mode": mode, "loss": {"people": weight}, "data": {"copies": 0.0},
             "head": {"epochs": 2}, "full": {"epochs": 0.2}}
        )  # fmt: skip
        with RunFolder.open(tmp_path / f"run-{weight}", {"weight": weight}) as run:
            return train(pairs, config, run, tmp_path / f"rm-{weight}")

    without, weighed = card(0.0), card(2.0)
    assert without["num_person_pairs"] == 0 < weighed["num_person_pairs"]
    assert weighed["num_training_pairs"] == without["num_training_pairs"] + weighed["num_person_pairs"]
    assert weighed["probes"]["person_alone"]["num_clips"] == without["probes"]["person_alone"]["num_clips"] > 0


def test_a_weight_without_votes_on_people_is_an_error(tmp_path, tiny_vlm):
    config = RewardModelConfig.model_validate({"vlm": str(tiny_vlm), "loss": {"people": 1.0}})
    with (
        RunFolder.open(tmp_path / "run", {}) as run,
        pytest.raises(DataError, match=r"loss\.people weighs votes on who is wrong"),
    ):
        train(write_preferences(tmp_path, 24), config, run, tmp_path / "rm")

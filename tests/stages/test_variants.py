"""Which measures a comparison takes by itself depends on what its videos are."""

import pytest
import torch

from idgrpo.errors import DataError
from idgrpo.evaluate.scorer import load_scorer
from idgrpo.records.models import Reference, Sample
from idgrpo.stages.variants import Variant, default_scorers
from idgrpo.video.write import write_video


def variant_of(tmp_path, side, person="tiny-00110"):
    video = tmp_path / f"{side}.mp4"
    write_video(video, torch.zeros(2, 3, side, side, dtype=torch.uint8))
    reference = Reference(person=person, images=(str(tmp_path / "photo.png"),))
    sample = Sample(
        id="s", case_id="c", prompt="a man walks", references=(reference,), video=str(video), seed=0, base="b"
    )
    return Variant("base", [sample], None, "base")


def test_the_oracle_is_for_clips_of_the_embedded_world_only(tmp_path):
    assert default_scorers([variant_of(tmp_path, 32)]) == ["identity_by_template"]
    assert default_scorers([variant_of(tmp_path, 240)]) == []  # its people, in clips of a base of full size
    assert default_scorers([variant_of(tmp_path, 32, person="ann")]) == []


def test_the_oracle_refuses_other_clips_by_their_size(tmp_path):
    sample = variant_of(tmp_path, 240).samples[0]
    clip = torch.zeros(2, 3, 240, 240, dtype=torch.uint8)
    with pytest.raises(DataError, match="32x32 pixels; this one has 240x240"):
        load_scorer("identity_by_template").score([clip], [sample], [16.0])

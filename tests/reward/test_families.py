"""Every supported family of checkpoints goes through full training, saving and loading by the same path."""

from pathlib import Path

import pytest
from preferences import whole_clip, write_preferences
from tiny_vlm import write_tiny_qwen2_vl, write_tiny_qwen3_vl, write_tiny_vlm

from idgrpo.errors import ArtifactError
from idgrpo.reward.backbone import FAMILIES, load_backbone
from idgrpo.reward.config import RewardModelConfig
from idgrpo.reward.data import clips_of
from idgrpo.reward.model import load_network
from idgrpo.reward.score import RewardModel
from idgrpo.reward.train import train
from idgrpo.run.folder import RunFolder

WRITERS = {"qwen2_5_vl": write_tiny_vlm, "qwen2_vl": write_tiny_qwen2_vl, "qwen3_vl": write_tiny_qwen3_vl}
INPUTS = {"num_frames": 4, "min_pixels": 1024, "max_pixels": 1024, "template_name": "compact_v1"}
RATES = {"lora": 1e-3, "vision": 1e-4, "merger": 1e-3, "head": 1e-2, "token": 1e-3}
FULL = {"rates": RATES, "lora": {"rank": 2, "dropout": 0.0}, "epochs": 1, "batch_pairs": 4, "accumulation": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_trains_saves_and_scores_alike(family, tmp_path) -> None:
    vlm = WRITERS[family](tmp_path / "vlm")
    pairs = write_preferences(tmp_path / "data", 16)
    config = RewardModelConfig.model_validate({"vlm": str(vlm), "mode": "full", "inputs": INPUTS, "full": FULL})
    with RunFolder.open(tmp_path / "run", {}) as run:
        card = train(pairs, config, run, tmp_path / "rm")
    before, after = load_backbone(vlm).state_dict(), load_network(tmp_path / "rm")[0].backbone.state_dict()
    moved = {name for name in before if "embed_tokens" not in name and not before[name].equal(after[name])}
    parts = ["self_attn.q_proj", "mlp.up_proj", "visual.patch_embed", "merger"]
    parts += ["deepstack_merger_list"] if family == "qwen3_vl" else []
    assert all(any(part in name for name in moved) for part in parts), moved
    model = RewardModel.load(tmp_path / "rm")
    right = 0
    for pair in pairs:
        (video_a, photos), (video_b, _) = map(whole_clip, clips_of(pair))
        first, second = model.score([video_a, video_b], [photos] * 2, [pair.prompt] * 2)
        right += (first > second) == (pair.label == "a")
    parts_of_data = [card[part] for part in ("train", "validation", "test")]
    assert right == pytest.approx(
        sum(part["accuracy_decided"] * part["num_decided"] for part in parts_of_data if part["num_decided"])
    )
    _refuses_changed_preprocessing(tmp_path / "rm")


def _refuses_changed_preprocessing(folder: Path) -> None:
    saved = folder / "preprocessing.json"
    saved.write_text(saved.read_text().replace('"fps": 16.0', '"fps": 24.0'))
    with pytest.raises(ArtifactError, match="digest"):
        RewardModel.load(folder)

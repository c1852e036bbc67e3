"""What training changed is kept beside the checkpoint: nothing of a small update is rounded away, nothing is not finite."""

import json
import shutil

import pytest
import torch
from preferences import write_preferences
from safetensors.torch import load_file, save_file
from scoring import clips
from test_reward_training import full, run_training, settings

from idgrpo.errors import ArtifactError
from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.model import HEAD_FILE, load_network, save_network
from idgrpo.reward.parts import PARTS_FILE, Parts
from idgrpo.reward.score import RewardModel


@pytest.fixture(scope="module")
def trained(tiny_vlm, tmp_path_factory):
    """A fully trained model; its updates are as small as those of the published rates."""
    folder = tmp_path_factory.mktemp("trained")
    rates = dict.fromkeys(("lora", "vision", "merger", "head", "token"), 0.0001)
    card = run_training(write_preferences(folder / "data", 16), settings(tiny_vlm, **full(rates=rates)), folder)
    return folder / "rm", card


def lost(update: torch.Tensor, kept: torch.Tensor) -> float:
    return float((kept - update).norm() / update.norm())


def test_bfloat16_weights_keep_small_updates_beside_them(trained) -> None:
    folder, _ = trained
    parts = Parts.load(folder)
    backbone = load_network(folder, torch.bfloat16)[0].backbone
    layers = {name.removeprefix("base_model.model."): module for name, module in backbone.named_modules()}
    for name, (a, b) in parts.adapters.items():
        layer, update = layers[name], b @ a
        held = layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()
        assert layer.scaling["default"] == 1 and layer.weight.dtype == torch.bfloat16
        assert lost(update, held) < 0.01
        base = layer.weight.detach()
        folded = (base.float() + update).bfloat16() - base
        assert lost(update, folded.float()) > 0.2  # what was done before


def test_both_precisions_score_alike(trained) -> None:
    folder, _ = trained
    _, builder, card = load_network(folder)
    videos, photos, prompts = clips(6)
    photos[1:4], prompts[1:4] = (
        photos[:1] * 3,
        prompts[:1] * 3,
    )  # a group that is read by its common beginning, and others
    request = videos, photos, prompts
    scores = []
    for dtype in (torch.float32, torch.bfloat16):
        network = load_network(folder, dtype)[0]
        with torch.no_grad():
            network.head.weight.normal_(generator=torch.Generator().manual_seed(1))
        scores.append(RewardModel(network, builder, card).score(*request))
    spread = max(scores[0]) - min(scores[0])
    assert scores[1] == pytest.approx(scores[0], abs=0.1 * spread)


def test_the_checkpoint_is_copied_as_it_is(trained, tiny_vlm) -> None:
    folder, card = trained
    for path in tiny_vlm.glob("*.safetensors"):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    parts = Parts.load(folder)
    assert {value.dtype for value in load_file(folder / PARTS_FILE).values()} == {torch.float32}
    assert len(parts.adapters) == 14 and len(parts.rows) == 1 and any("merger" in name for name in parts.weights)
    assert json.loads((folder / "reward.json").read_text())["validation"] == card["validation"]


def test_a_reward_model_is_no_checkpoint_to_build_on(trained, tiny_vlm, tmp_path) -> None:
    with pytest.raises(ArtifactError, match="is a reward model, no checkpoint to build on"):
        run_training(write_preferences(tmp_path / "data", 12), settings(trained[0]), tmp_path)


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda p: p.write_bytes(b"half"), "cannot be read"),
        (lambda p: change(p, lambda t: t.pop(next(name for name in t if name.endswith("lora_B")))), "cannot be read"),
        (lambda p: change(p, lambda t: t.update({"visual.nothing": torch.zeros(1)})), "have no place"),
        (lambda p: change(p, lambda t: t.update({"visual.merger.ln_q.weight": torch.zeros(3)})), "has shape"),
        (lambda p: change(p, lambda t: next(iter(t.values())).view(-1)[:1].fill_(float("nan"))), "not finite"),
        (
            lambda p: change(p.with_name(HEAD_FILE), lambda t: t["weight"].view(-1)[:1].fill_(float("inf"))),
            "not finite",
        ),
        (lambda p: change(p.with_name("model.safetensors"), spoil_one), "not finite"),
    ],
)
def test_damaged_and_non_finite_weights_are_refused(trained, tmp_path, damage, word) -> None:
    shutil.copytree(trained[0], tmp_path / "rm")
    damage(tmp_path / "rm" / PARTS_FILE)
    with pytest.raises(ArtifactError, match=word):
        RewardModel.load(tmp_path / "rm")


def change(path, how) -> None:
    tensors = load_file(path)
    how(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def spoil_one(tensors) -> None:
    next(value for name, value in tensors.items() if "blocks" in name).view(-1)[:1].fill_(float("nan"))


def test_nothing_that_is_not_finite_is_saved(trained, tiny_vlm, tmp_path) -> None:
    network, builder, card = load_network(trained[0])
    parts = Parts.load(trained[0])
    next(iter(parts.weights.values())).view(-1)[0] = float("inf")
    with pytest.raises(ArtifactError, match="not finite"):
        save_network(network, builder, card, tmp_path / "one", copy_from=tiny_vlm, parts=parts)
    with torch.no_grad():
        network.head.weight[0, 0] = float("nan")
    with pytest.raises(ArtifactError, match="not finite"):
        save_network(network, builder, card, tmp_path / "two", copy_from=tiny_vlm)
    with pytest.raises(ArtifactError, match="not finite"):
        save_network(
            load_network(trained[0])[0], builder, card | {"x": float("nan")}, tmp_path / "three", copy_from=tiny_vlm
        )


def test_a_vision_language_checkpoint_with_nan_is_refused(tiny_vlm, tmp_path) -> None:
    shutil.copytree(tiny_vlm, tmp_path / "vlm")
    change(tmp_path / "vlm" / "model.safetensors", spoil_one)
    with pytest.raises(ArtifactError, match="blocks.*not finite"):
        load_backbone(tmp_path / "vlm")

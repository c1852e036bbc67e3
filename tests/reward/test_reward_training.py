"""Training end to end on tiny checkpoints: both modes, resume, batch layouts, saved models that score the same."""

import hashlib
import json
import shutil
from itertools import permutations
from pathlib import Path

import pytest
import torch
from preferences import whole_clip, write_preferences
from safetensors.torch import load_file
from tiny_vlm import write_tiny_vlm

from idgrpo.errors import ArtifactError, DataError, MachineError, StoppedError
from idgrpo.reward.attach import attach_parts
from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.checkpoint import default_vlm, find_vlm
from idgrpo.reward.config import FullConfig, RewardModelConfig
from idgrpo.reward.data import clips_of
from idgrpo.reward.features import feature_scale
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.metrics import Judged, best_tie_threshold
from idgrpo.reward.model import HeadNetwork, RewardNetwork, load_network
from idgrpo.reward.parts import Parts, add_token_rows
from idgrpo.reward.score import RewardFailure, RewardModel, clip_features
from idgrpo.reward.table import accuracy_lines, flat_metrics
from idgrpo.reward.train import train
from idgrpo.run.folder import RunFolder

RATES = {"lora": 1e-3, "vision": 1e-4, "merger": 1e-3, "head": 1e-2, "token": 1e-3}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_preferences(tmp_path_factory.mktemp("data"), 40, ties=4)


def settings(vlm: Path, **changes) -> RewardModelConfig:
    values = {"vlm": str(vlm), "log_every": 1, **changes}
    return RewardModelConfig.model_validate(values)


def full(**changes) -> dict:
    values = {
        "rates": RATES,
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
        "epochs": 1,
        "batch_pairs": 2,
        "accumulation": 2,
        "gradient_checkpointing": False,
    }
    return {"mode": "full", "full": {**values, **changes}}


def run_training(pairs, config: RewardModelConfig, folder: Path, *, resume: bool = False) -> dict:
    with RunFolder.open(folder / "run", {"test": 1}) as run:
        return train(pairs, config, run, folder / "rm")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of the backbone as it is used, those of a reward model in float32."""
    is_reward_model = (folder / "reward.json").is_file()
    return (load_network(folder)[0].backbone if is_reward_model else load_backbone(folder)).state_dict()


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()


def test_head_only_learns_and_saves_a_model_that_scores(tiny_vlm, pairs, tmp_path) -> None:
    card = run_training(pairs, settings(tiny_vlm), tmp_path)
    assert card["mode"] == "head" and card["train"]["accuracy_decided"] > 0.7
    assert card["train"]["num_decided"] + card["validation"]["num_decided"] + card["test"]["num_decided"] == 36
    model = RewardModel.load(tmp_path / "rm")
    judged = 0
    for pair in pairs:
        (video_a, photos), (video_b, _) = map(whole_clip, clips_of(pair))
        first, second = model.score([video_a, video_b], [photos] * 2, [pair.prompt] * 2)
        judged += pair.label != "tie" and (first > second) == (pair.label == "a")
    parts = [card[part] for part in ("train", "validation", "test")]
    expected = sum(part["accuracy_decided"] * part["num_decided"] for part in parts if part["num_decided"])
    assert judged == pytest.approx(expected)
    assert json.loads((tmp_path / "rm" / "reward.json").read_text())["tie_threshold"] == model.tie_threshold


def test_full_training_changes_every_part_and_only_those(tiny_vlm, pairs, tmp_path) -> None:
    card = run_training(pairs, settings(tiny_vlm, **full()), tmp_path)
    assert card["mode"] == "full"
    before, after = weights_of(tiny_vlm), weights_of(tmp_path / "rm")

    def changed(name: str) -> bool:
        return not torch.equal(before[name], after[name][: len(before[name])])

    names = [name for name in after if "embed_tokens" not in name]
    moved = {name for name in names if changed(name)}
    assert {n for n in moved if n.startswith("language_model")} == {
        n for n in names if n.startswith("language_model") and "_proj.weight" in n
    }
    assert any("merger" in n for n in moved) and any("visual.blocks" in n for n in moved)
    assert not changed("language_model.embed_tokens.weight")  # only the reward token's own new row may move
    model = RewardModel.load(tmp_path / "rm")
    assert model.builder.reward_id == len(model.builder.tokenizer) - 1


def test_the_head_stays_float32_beside_a_bfloat16_backbone(tiny_vlm, pairs, tmp_path, monkeypatch) -> None:
    seen, forward = set(), RewardNetwork.forward

    def spy(self, **inputs):
        out = forward(self, **inputs)
        frozen = {p.dtype for name, p in self.backbone.named_parameters() if "base_layer" in name}
        trained = {p.dtype for p in self.parameters() if p.requires_grad}
        seen.update([(self.head.weight.dtype, out["gap"].dtype, *frozen, *trained)])
        return out

    monkeypatch.setattr(RewardNetwork, "forward", spy)
    run_training(pairs[:24], settings(tiny_vlm, **full(bf16=True)), tmp_path)
    assert seen == {(torch.float32, torch.float32, torch.bfloat16, torch.float32)}
    losses = [json.loads(line)["loss"] for line in (tmp_path / "rm" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) > 3 and losses[-1] < losses[0]
    assert load_file(tmp_path / "rm" / "reward_head.safetensors")["weight"].dtype == torch.float32


def test_frozen_parts_stay_where_they_were(tiny_vlm, pairs, tmp_path) -> None:
    rates = {"lora": 1e-3, "vision": 0, "merger": 0, "head": 1e-2, "token": 0}
    run_training(pairs[:12], settings(tiny_vlm, **full(rates=rates)), tmp_path)
    before, after = weights_of(tiny_vlm), weights_of(tmp_path / "rm")
    vision = [name for name in after if name.startswith("visual")]
    assert vision and all(torch.equal(before[name], after[name]) for name in vision)


def test_batch_layouts_give_the_same_model(tiny_vlm, pairs, tmp_path) -> None:
    weights = []
    for batch, accumulation in ((8, 1), (4, 2), (1, 8)):
        lora = {"rank": 4, "alpha": 8, "dropout": 0.0}
        config = settings(tiny_vlm, **full(batch_pairs=batch, accumulation=accumulation, lora=lora))
        folder = tmp_path / f"{batch}x{accumulation}"
        run_training(pairs, config, folder)
        weights.append(weights_of(folder / "rm"))
    for other in weights[1:]:
        for name, value in weights[0].items():
            torch.testing.assert_close(other[name], value, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("mode", ["head", "full"])
def test_stop_and_resume_gives_the_same_weights(tiny_vlm, pairs, tmp_path, monkeypatch, mode) -> None:
    changes = full() if mode == "full" else {"mode": "head"}
    config = settings(tiny_vlm, save_every=2, **changes)
    run_training(pairs, config, tmp_path / "whole")
    monkeypatch.setattr("idgrpo.reward.trainer.RunCallback.on_step_end", _stop_after(3))
    with pytest.raises(StoppedError):
        run_training(pairs, config, tmp_path / "cut")
    assert not (tmp_path / "cut" / "rm").exists()
    monkeypatch.undo()
    broken = tmp_path / "cut" / "run" / "student" / "checkpoint-99"  # what a kill while saving leaves behind
    broken.mkdir()
    (broken / "optimizer.pt").write_bytes(b"PK half")
    run_training(pairs, config, tmp_path / "cut", resume=True)
    assert digest(tmp_path / "cut" / "rm") == digest(tmp_path / "whole" / "rm")


def _stop_after(num_updates: int):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= num_updates:
            self._stop_requested.__closure__[0].cell_contents.stop.requested = True
            control.should_save = control.should_training_stop = True
        return control

    return on_step_end


def test_teacher_and_cosine_mix_run_together(tiny_vlm, pairs, tmp_path) -> None:
    card = run_training(pairs, settings(tiny_vlm, data={"mix": "cosine", "teacher": True}), tmp_path)
    assert 0 <= card["teacher"]["kept_share"] <= 1
    assert card["num_training_pairs"] < len(pairs)


def test_scores_do_not_depend_on_company_or_reference_order(tiny_vlm, pairs, tmp_path) -> None:
    run_training(pairs[:12], settings(tiny_vlm), tmp_path)
    model = RewardModel.load(tmp_path / "rm", batch=3)
    clips = [whole_clip(clips_of(pair)[0]) for pair in pairs[:5]]
    videos, photos = [c[0] for c in clips], [c[1] for c in clips]
    prompts = ["short", "a longer prompt", "x", "y", "z"]
    together = model.score(videos, photos, prompts)
    assert together == pytest.approx(
        [model.score([v], [p], [t])[0] for v, p, t in zip(videos, photos, prompts, strict=True)], abs=1e-5
    )
    assert together == pytest.approx(model.score(videos, [p[::-1] for p in photos], prompts), abs=1e-6)


def test_average_order_is_symmetric_too(tiny_vlm, pairs, tmp_path) -> None:
    run_training(pairs[:12], settings(tiny_vlm, inputs={"reference_order": "average"}), tmp_path)
    model = RewardModel.load(tmp_path / "rm")
    video, photos = whole_clip(clips_of(pairs[0])[0])
    forward, backward = model.score([video, video], [photos, photos[::-1]], ["x", "x"])
    assert forward == pytest.approx(backward, abs=1e-5)


def test_the_tie_threshold_comes_from_validation_alone(tiny_vlm, pairs, tmp_path) -> None:
    parts = ["test" if i < 8 else "validation" if i % 4 == 0 else "train" for i in range(len(pairs))]
    given = [p.model_copy(update={"split": part}) for p, part in zip(pairs, parts, strict=True)]
    given[4:7] = [p.model_copy(update={"label": "tie"}) for p in given[4:7]]  # ties with a gap, in test alone
    card = run_training(given, settings(tiny_vlm), tmp_path)
    model, judged = RewardModel.load(tmp_path / "rm"), {"validation": [], "test": []}
    for pair in given:
        if pair.split in judged:
            (video_a, photos), (video_b, _) = map(whole_clip, clips_of(pair))
            first, second = model.score([video_a, video_b], [photos] * 2, [pair.prompt] * 2)
            judged[pair.split].append(Judged(pair, first - second))
    thresholds = {part: best_tie_threshold(found) for part, found in judged.items()}
    assert thresholds["test"] > thresholds["validation"] + 1e-3
    assert card["tie_threshold"] == pytest.approx(thresholds["validation"], abs=1e-5)
    assert card["measured_on"] == "test" and card["test"]["num_pairs"] == 8


@pytest.mark.parametrize("wrong", [0, 8])
def test_a_model_at_chance_says_so(tiny_vlm, pairs, tmp_path, monkeypatch, wrong) -> None:
    parts = ["test" if i < 4 else "validation" if i < 24 else "train" for i in range(len(pairs))]  # 4 ties in test
    given = [p.model_copy(update={"split": part}) for p, part in zip(pairs, parts, strict=True)]

    def gaps(session, preferences):
        right = [1.0 if p.label == "a" else -1.0 for p in preferences]
        return [-gap if i < wrong else gap for i, gap in enumerate(right)]

    monkeypatch.setattr("idgrpo.reward.train._gaps", gaps)
    card = run_training(given, settings(tiny_vlm), tmp_path)
    low, high = card["at_chance_interval"]
    assert card["validation"]["num_decided"] == 20
    assert low <= card["validation"]["accuracy_decided"] == 1 - wrong / 20 <= high
    assert card["at_chance"] is (low <= 0.5) is bool(wrong)
    assert ("AT CHANCE" in "\n".join(accuracy_lines(card))) is bool(wrong)
    assert flat_metrics(card)["at_chance"] == float(bool(wrong))


def test_a_damaged_checkpoint_costs_the_updates_since_the_one_before(
    tiny_vlm, pairs, tmp_path, monkeypatch, caplog
) -> None:
    config = settings(tiny_vlm, save_every=2, mode="head")
    run_training(pairs, config, tmp_path / "whole")
    monkeypatch.setattr("idgrpo.reward.trainer.RunCallback.on_step_end", _stop_after(5))
    with pytest.raises(StoppedError):
        run_training(pairs, config, tmp_path / "cut")
    monkeypatch.undo()
    student = tmp_path / "cut" / "run" / "student"
    assert {path.name for path in student.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-5"}
    file = student / "checkpoint-5" / "optimizer.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # still a zip, still loads
    file.write_bytes(content)
    for path in (tmp_path / "cut" / "run").rglob("features-*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    run_training(pairs, config, tmp_path / "cut", resume=True)
    assert "checkpoint-5 is not used: optimizer.pt was changed" in caplog.text and "are read again" in caplog.text
    assert digest(tmp_path / "cut" / "rm") == digest(tmp_path / "whole" / "rm")


def test_the_teacher_is_asked_once(tiny_vlm, pairs, tmp_path, monkeypatch) -> None:
    config = settings(tiny_vlm, save_every=2, data={"teacher": True}, head={"epochs": 4, "batch_pairs": 8})
    run_training(pairs, config, tmp_path / "whole")
    real = RewardModel.load
    monkeypatch.setattr(RewardModel, "load", lambda *args, **settings: 1 / 0)  # after the student, before the card
    with pytest.raises(ZeroDivisionError):
        run_training(pairs, config, tmp_path / "cut")
    monkeypatch.setattr(RewardModel, "load", real)
    monkeypatch.setattr("idgrpo.reward.train.filter_by_teacher", lambda *args, **settings: 1 / 0)
    card = run_training(pairs, config, tmp_path / "cut", resume=True)
    assert card["teacher"]["num_kept"] <= card["teacher"]["num_automatic"]
    assert digest(tmp_path / "cut" / "rm") == digest(tmp_path / "whole" / "rm")


@pytest.mark.parametrize("order", [None, "average"])
def test_reference_order_changes_no_score_of_the_shipped_reader(order) -> None:
    folder = find_vlm("tiny-vlm")
    builder, backbone = (
        InputBuilder.load(folder, **({"reference_order": order} if order else {})),
        load_backbone(folder),
    )
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    network = RewardNetwork(backbone, backbone.get_input_embeddings().weight.shape[1]).eval()
    with torch.no_grad():
        network.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    model = RewardModel(network, builder, {})
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(0, 256, (9, 3, 32, 32), generator=generator, dtype=torch.uint8)
    for num in (2, 3):
        photos = list(torch.randint(0, 256, (num, 3, 32, 32), generator=generator, dtype=torch.uint8))
        orders = [list(found) for found in permutations(photos)]
        scores = model.score([video] * len(orders), orders, ["x"] * len(orders))
        assert max(scores) - min(scores) <= 1e-4
        others = torch.randint(0, 256, (num, 3, 32, 32), generator=generator, dtype=torch.uint8)
        assert abs(model.score([video], [list(others)], ["x"])[0] - scores[0]) > 1e-3  # the photos do count


def test_parts_put_back_keep_scores_and_scoring_keeps_no_graph(tiny_vlm, tmp_path) -> None:
    builder, backbone = InputBuilder.load(tiny_vlm), load_backbone(tiny_vlm)
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    network = RewardNetwork(backbone, 32).eval()
    config = FullConfig.model_validate(full()["full"])
    attach_parts(network, config, builder.reward_id)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_" in name or "trainable_tokens" in name or name.startswith("head"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    network.eval()
    videos = list(torch.randint(0, 256, (3, 9, 3, 32, 32), generator=generator, dtype=torch.uint8))
    photos = [[video[0], video[1]] for video in videos]
    assert any(p.requires_grad for p in network.parameters())
    features = clip_features(network, builder, videos, photos, ["x"] * 3)
    assert features.grad_fn is None and not features.requires_grad
    before = RewardModel(network, builder, {}).score(videos, photos, ["x"] * 3)
    Parts.of(network.backbone, [builder.reward_id]).save(tmp_path)
    put_back = RewardNetwork(Parts.load(tmp_path).apply(load_backbone(tiny_vlm)), 32).eval()
    with torch.no_grad():
        put_back.head.weight.copy_(network.head.weight)
    assert not any("lora_" in name for name, _ in put_back.named_parameters())
    assert RewardModel(put_back, builder, {}).score(videos, photos, ["x"] * 3) == pytest.approx(before, abs=1e-4)
    assert max(before) - min(before) > 1e-3


def test_a_bad_clip_is_a_failure_and_spares_the_others(tiny_vlm, pairs, tmp_path) -> None:
    run_training(pairs[:12], settings(tiny_vlm), tmp_path)
    model = RewardModel.load(tmp_path / "rm")
    video, photos = whole_clip(clips_of(pairs[0])[0])
    results = model.score([video, video[:0], video.float(), video], [photos, photos, photos, []], ["x"] * 4)
    assert isinstance(results[0], float)
    assert [type(r) for r in results[1:]] == [RewardFailure] * 3 and all(r.reason for r in results[1:])
    with torch.no_grad():
        model.network.head.weight.fill_(float("nan"))
    assert model.score([video], [photos], ["x"])[0] == RewardFailure("the score is nan")


def test_damaged_models_are_refused(tiny_vlm, pairs, tmp_path) -> None:
    run_training(pairs[:12], settings(tiny_vlm), tmp_path)
    saved = tmp_path / "rm" / "preprocessing.json"
    saved.write_text(saved.read_text().replace('"num_frames": 4', '"num_frames": 6'))
    with pytest.raises(ArtifactError, match="digest"):
        RewardModel.load(tmp_path / "rm")
    saved.unlink()
    with pytest.raises(ArtifactError, match="preprocessing.json is missing"):
        RewardModel.load(tmp_path / "rm")
    with pytest.raises(ArtifactError, match="reward.json is missing"):
        RewardModel.load(tiny_vlm)


def test_weights_of_blocks_that_the_configuration_does_not_count_are_not_dropped_in_silence(tmp_path) -> None:
    shutil.copytree(find_vlm("tiny-vlm"), tmp_path / "vlm")
    config = json.loads((tmp_path / "vlm" / "config.json").read_text())
    config["vision_config"]["depth"] -= 1
    (tmp_path / "vlm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"holds 12 weights of blocks .* \(visual.blocks.3"):
        load_backbone(tmp_path / "vlm")


def test_missing_files_are_named(tiny_vlm, pairs, tmp_path) -> None:
    gone = pairs[0].model_copy(update={"video_a": str(tmp_path / "gone.mp4")})
    with pytest.raises(DataError, match=r"pair pair-0: field 'video_a': .*gone.mp4"):
        run_training([gone, *pairs[1:]], settings(tiny_vlm), tmp_path)


def test_checkpoints_are_found_or_their_download_is_named(tmp_path) -> None:
    assert default_vlm(32, 32) == "tiny-vlm" and default_vlm(416, 240).startswith("Qwen/")
    with pytest.raises(MachineError, match="hf download Qwen/Qwen2.5-VL-3B-Instruct"):
        find_vlm("Qwen/Qwen2.5-VL-3B-Instruct")
    with pytest.raises(ArtifactError, match="config.json is missing"):
        find_vlm(str(tmp_path))
    with pytest.raises(ArtifactError, match="neither a directory nor a model id"):
        find_vlm("./nowhere")


def test_real_sized_patches_and_wording(pairs, tmp_path) -> None:
    vlm = write_tiny_vlm(tmp_path / "vlm", patch_size=14, min_pixels=784, max_pixels=4 * 784)
    config = settings(vlm, inputs={"max_pixels": 3136, "min_pixels": 784, "num_frames": 4})
    card = run_training(pairs[:12], config, tmp_path)
    assert card["mode"] == "head"
    model = RewardModel.load(tmp_path / "rm")
    assert model.builder.settings.template_name == "identity_v1"


def test_the_unit_of_features_changes_no_gap_and_their_proportions_stay():
    differences = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1.0, 2.0, 5.0])
    networks = {unit: HeadNetwork(4, feature_scale(unit * differences)) for unit in (1.0, 1000.0)}
    for unit, network in networks.items():
        torch.nn.init.ones_(network.head.weight)
        gaps = network(unit * differences)["gap"]
        torch.testing.assert_close(gaps, networks[1.0](differences)["gap"])
        torch.testing.assert_close(gaps, (unit * differences) @ network.folded()[0])  # on raw features
    small, large = networks[1.0].folded()[0, [0, 3]]
    assert small == large  # a column that hardly differs is not blown up
    assert feature_scale(torch.zeros(3, 4)) > 0

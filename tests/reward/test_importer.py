"""The authors' layout, written synthetically with their key names, comes out as a model with the same scores."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from idgrpo.cli.main import run
from idgrpo.errors import ArtifactError
from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.importer import import_checkpoint
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.model import RewardNetwork
from idgrpo.reward.parts import LANGUAGE_LINEAR, add_token_rows
from idgrpo.reward.score import RewardModel

SETTINGS = {
    "data_config": {"max_frame_pixels": 1024, "num_frames": 5.0},
    "model_config": {"model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "output_dim": 1, "reward_token": "special"},
    "peft_lora_config": {"vision_lora": False, "lora_r": 3, "lora_alpha": 6, "use_rslora": False},
}


def their_name(name: str) -> str:
    name = name.removeprefix("base_model.model.").replace(".default", "")
    return "base_model.model." + (name if name.startswith("visual.") else name.replace("language_model.", "model."))


@pytest.fixture
def released(tiny_vlm, tmp_path) -> tuple[Path, RewardModel]:
    """A checkpoint in their layout, and the model it came from."""
    torch.manual_seed(1)
    overrides = {"num_frames": 4, "reference_order": "given"}
    builder, backbone = InputBuilder.load(tiny_vlm, **overrides), load_backbone(tiny_vlm)
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    peft = get_peft_model(backbone, LoraConfig(r=3, lora_alpha=6, target_modules=LANGUAGE_LINEAR))
    network = RewardNetwork(peft, 32).eval()
    adapter, rest = {}, {}
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name or ".visual." in name or "embed_tokens" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
                (adapter if "lora_" in name else rest)[their_name(name)] = parameter.detach().clone()
        network.head.weight.normal_()
    rest["base_model.model.rm_head.weight"] = network.head.weight.detach().clone()
    folder = tmp_path / "identity_reward" / "checkpoint-21"
    folder.mkdir(parents=True)
    save_file(adapter, folder / "adapter_model.safetensors")
    torch.save(rest, folder / "non_lora_state_dict.pth")
    (folder.parent / "model_config.json").write_text(json.dumps(SETTINGS))
    return folder, RewardModel(network, builder, {})


def test_scores_survive_the_conversion(released, tiny_vlm, tmp_path) -> None:
    folder, original = released
    read = import_checkpoint(folder, tiny_vlm, tmp_path / "ours")
    assert read["adapters"] == 14 and "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight" in load_file(
        folder / "adapter_model.safetensors"
    )
    ours = RewardModel.load(tmp_path / "ours")
    assert ours.builder.settings.num_frames == 4  # what became of their five
    generator = torch.Generator().manual_seed(0)
    videos = torch.randint(0, 256, (3, 9, 3, 32, 32), generator=generator, dtype=torch.uint8)
    photos = torch.randint(0, 256, (3, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    arguments = (list(videos), list(photos), ["a", "b", "c"])
    assert ours.score(*arguments) == pytest.approx(original.score(*arguments), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "damage, word",
    [
        (lambda a, r: a.update(extra=torch.zeros(1)), "unexpected key extra"),
        (lambda a, r: a.pop(sorted(a)[0]), "only one of its two"),
        (lambda a, r: a.update({sorted(a)[0]: torch.zeros(3)}), r"matrices of shape \[3\] and"),
        (lambda a, r: a.update({sorted(a)[1]: torch.zeros(32, 9)}), r"\[32, 9\], model_config.json says rank"),
        (lambda a, r: r.update(step=7), "non_lora_state_dict.pth holds no weights by name"),
        (lambda a, r: [a.pop(name) for name in sorted(a)[:2]], "adapter_model.safetensors lacks 1 weights"),
        (lambda a, r: r.pop("base_model.model.model.embed_tokens.weight"), "lacks 1 weights: language_model.embed"),
        (
            lambda a, r: r.update({"base_model.model.model.embed_tokens.weight": torch.zeros(9, 32)}),
            "9 rows, none for the reward token",
        ),
        (lambda a, r: r.update({"base_model.model.model.layers.9.mlp.up_proj.weight": torch.zeros(1)}), "no place"),
        (lambda a, r: r.pop("base_model.model.visual.merger.ln_q.weight"), "visual.merger.ln_q.weight"),
        (lambda a, r: r.pop("base_model.model.rm_head.weight"), "no head"),
        (lambda a, r: r.update({"base_model.model.rm_head.weight": torch.zeros(3, 32)}), "head of shape"),
        (lambda a, r: r.update({"base_model.model.visual.merger.ln_q.weight": torch.zeros(3)}), "has shape"),
    ],
)
def test_missing_and_unexpected_keys_are_refused(released, tiny_vlm, tmp_path, damage, word) -> None:
    folder, _ = released
    adapter = load_file(folder / "adapter_model.safetensors")
    rest = torch.load(folder / "non_lora_state_dict.pth", weights_only=True)
    damage(adapter, rest)
    save_file(adapter, folder / "adapter_model.safetensors")
    torch.save(rest, folder / "non_lora_state_dict.pth")
    with pytest.raises(ArtifactError, match=word):
        import_checkpoint(folder, tiny_vlm, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_the_command_line_makes_an_artifact_of_it(released, tiny_vlm, tmp_path, capsys) -> None:
    folder, original = released
    command = [
        "artifacts",
        "import-rm",
        str(folder),
        "--vlm",
        str(tiny_vlm),
        "--store",
        str(tmp_path / "store"),
        "--json",
    ]
    assert run([*command, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["would_write"] == "rm/authors"
    assert run(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["artifact"] == "rm/authors@v1" and document["adapters"] == 14 and document["weights"] > 20
    assert run(command) == 0 and json.loads(capsys.readouterr().out)["artifact"] == "rm/authors@v1"
    ours = RewardModel.load(Path(document["path"]))
    video = torch.randint(0, 256, (9, 3, 32, 32), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    arguments = ([video], [[video[0], video[1]]], ["x"])
    assert ours.score(*arguments) == pytest.approx(original.score(*arguments), rel=1e-4, abs=1e-4)
    (folder / "adapter_model.safetensors").write_bytes(b"half")
    assert run(command) == 4
    assert "cannot be read" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert run(["artifacts", "import-rm", str(tmp_path), "--json"]) == 4
    assert "model_config.json is neither in" in json.loads(capsys.readouterr().out)["error"]["message"]

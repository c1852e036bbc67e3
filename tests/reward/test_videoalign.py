"""VideoAlign's layout (VideoReward), written synthetically with the key names of its release: three rewards with its scores."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from policy_setting import SMALL, write_setting
from safetensors.torch import save_file
from test_importer import their_name
from tiny_vlm import write_tiny_qwen2_vl

from idgrpo.cli.main import run
from idgrpo.errors import ArtifactError, UsageError
from idgrpo.reward.backbone import hidden_states, load_backbone
from idgrpo.reward.importer import DIMENSIONS, import_checkpoint
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.parts import LANGUAGE_LINEAR, add_token_rows
from idgrpo.reward.score import RewardModel

WORDING = "\nRate.\nVisual Quality: <|VQ_reward|>\nMotion Quality: <|MQ_reward|>\nPrompt - {text_prompt}\nAlignment: <|TA_reward|>\nEND\n"
CHAT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>"
NORM = {"VQ_mean": 3.7, "VQ_std": 2.2, "MQ_mean": 1.2, "MQ_std": 1.4, "TA_mean": 2.8, "TA_std": 2.5}


def settings(num_heads: int) -> dict:
    return {
        "data_config": {"max_frame_pixels": 1024, "num_frames": None, "fps": 2.0, "eval_dim": list(DIMENSIONS),
                        "prompt_template_type": "detailed_special", "sample_type": "uniform"},
        "model_config": {"model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct", "output_dim": num_heads,
                         "reward_token": "special", "use_special_tokens": True},
        "peft_lora_config": {"vision_lora": False, "lora_r": 3, "lora_alpha": 6, "use_rslora": False},
        "inference_config": NORM,
    }  # fmt: skip


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> Path:
    return write_tiny_qwen2_vl(tmp_path_factory.mktemp("vlm") / "qwen2")


@pytest.fixture(scope="module", params=[1, 3], ids=["one head", "three heads"])
def released(request, vlm, tmp_path_factory):
    """A checkpoint in their layout, the file of its wording, and a function that scores as their code does."""
    torch.manual_seed(1)
    root = tmp_path_factory.mktemp("released")
    (root / "wording.txt").write_text(WORDING)
    tokens = tuple(f"<|{name}_reward|>" for name in DIMENSIONS)
    whole = CHAT.replace("<|vision_start|><|video_pad|><|vision_end|>", "{video}") + WORDING.replace(
        "text_prompt", "prompt"
    )
    builder = InputBuilder.load(
        vlm, num_frames=10, min_pixels=1024, max_pixels=1024, special_tokens=tokens, reward_token=tokens[2], reference_text="", prompt_text="{prompt}",
        template_text=whole,
    )  # fmt: skip
    backbone = load_backbone(vlm)
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    peft = get_peft_model(backbone, LoraConfig(r=3, lora_alpha=6, target_modules=LANGUAGE_LINEAR)).eval()
    head, adapter, rest = torch.randn(request.param, 32), {}, {}
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name or ".visual." in name or "embed_tokens" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
                (adapter if "lora_" in name else rest)[their_name(name)] = parameter.detach().clone()
    rest["base_model.model.rm_head.weight"] = head
    folder = root / "checkpoint-11352"
    folder.mkdir()
    save_file(adapter, folder / "adapter_model.safetensors")
    torch.save(rest, folder / "non_lora_state_dict.pth")
    (root / "model_config.json").write_text(json.dumps(settings(request.param)))

    def score(videos, prompts) -> list[dict[str, float]]:
        """Read the whole text once, and each dimension at its own token; (score - mean) / std, as their code gives it."""
        found = []
        for video, prompt in zip(videos, prompts, strict=True):
            inputs = builder.build([video], [[]], [prompt])
            text = builder.tokenizer.decode(inputs["input_ids"][0])
            assert (
                text.startswith(CHAT.split("<|video_pad|>")[0])
                and "Rate.\nVisual" in text
                and f"Prompt - {prompt}" in text
            )
            ids = inputs["input_ids"][0]
            with torch.no_grad():
                states = hidden_states(peft, inputs)[0].float()
            values = {}
            for place, name in enumerate(DIMENSIONS):
                at = int((ids == builder.token_id(f"<|{name}_reward|>")).nonzero())
                raw = float(states[at] @ head[place if len(head) > 1 else 0])
                values[name] = (raw - NORM[f"{name}_mean"]) / NORM[f"{name}_std"]
            found.append(values)
        return found

    return folder, root / "wording.txt", score


def test_each_dimension_is_a_reward_with_their_scores(released, vlm, tmp_path, capsys) -> None:
    folder, wording, score = released
    generator = torch.Generator().manual_seed(0)
    videos = list(torch.randint(0, 256, (3, 12, 3, 32, 32), generator=generator, dtype=torch.uint8))
    photos = list(torch.randint(0, 256, (3, 2, 3, 32, 32), generator=generator, dtype=torch.uint8))
    prompts = ["a man walks", "a man walks", "two people meet"]  # two of one text are read together
    theirs = score(videos, prompts)
    command = ["artifacts", "import-rm", str(folder), "--vlm", str(vlm), "--template", str(wording)]
    for name in DIMENSIONS:
        assert run([*command, "--store", str(tmp_path / "store"), "--dimension", name, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["artifact"] == f"rm/videoalign-{name}@v1"
        model = RewardModel.load(Path(document["path"]))
        assert model.builder.settings.num_frames == 10  # two frames a second of five seconds
        shift = NORM[f"{name}_mean"] / NORM[f"{name}_std"]
        want = [values[name] + shift for values in theirs]
        assert max(want) - min(want) > 1e-3
        assert model.score(videos, photos, prompts) == pytest.approx(want, rel=1e-3, abs=1e-4)
        assert model.score(videos, [[], [], []], prompts) == pytest.approx(want, rel=1e-3, abs=1e-4)


def test_a_dimension_must_be_named(released, vlm, tmp_path, capsys) -> None:
    folder, _, _ = released
    command = ["artifacts", "import-rm", str(folder), "--vlm", str(vlm), "--store", str(tmp_path / "store")]
    for more in ([], ["--dimension", "ID"]):
        assert run([*command, *more]) == 2
        assert "--dimension VQ" in capsys.readouterr().err
    assert run([*command, "--dimension", "MQ", "--dry-run", "--json"]) == 0  # our own wording where none is given
    assert json.loads(capsys.readouterr().out)["would_write"] == "rm/videoalign-MQ"


def test_heads_and_numbers_that_do_not_fit_are_refused(released, vlm, tmp_path) -> None:
    folder, _, _ = released
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    told = json.loads((folder.parent / "model_config.json").read_text())
    wrong = told | {"model_config": told["model_config"] | {"output_dim": 4 - told["model_config"]["output_dim"]}}
    (copy / "model_config.json").write_text(json.dumps(wrong))
    with pytest.raises(ArtifactError, match="a head of shape"):
        import_checkpoint(copy, vlm, tmp_path / "out", dimension="VQ")
    (copy / "model_config.json").write_text(json.dumps(told | {"inference_config": {"VQ_std": 0}}))
    with pytest.raises(ArtifactError, match="VQ_std is 0"):
        import_checkpoint(copy, vlm, tmp_path / "out", dimension="VQ")
    one = told | {"data_config": told["data_config"] | {"eval_dim": ["VQ"]}}
    (copy / "model_config.json").write_text(json.dumps(one))
    with pytest.raises((UsageError, ArtifactError)):
        import_checkpoint(copy, vlm, tmp_path / "out", dimension="VQ")


@pytest.mark.parametrize(
    "part, key, value, says",
    [
        ("peft_lora_config", "lora_r", 0, "lora_r is 0, a positive number"),
        ("peft_lora_config", "lora_alpha", "6", "lora_alpha is '6'"),
        ("peft_lora_config", "lora_r", None, "lora_r is None"),
        ("data_config", "max_frame_pixels", None, "max_frame_pixels is None"),
        ("data_config", "num_frames", "five", "num_frames is 'five'"),
        ("data_config", "fps", None, "fps is None"),
        ("data_config", "fps", ..., "it has no 'fps'"),
        ("model_config", "model_name_or_path", 3, "model_name_or_path is no text"),
        ("model_config", "model_name_or_path", ..., "it has no 'model_name_or_path'"),
        ("inference_config", "VQ_std", "2.2", "VQ_std is '2.2'"),
        ("inference_config", "VQ_std", None, "VQ_std is None"),
    ],
)
def test_values_that_are_none_are_refused_with_their_key(part, key, value, says, tmp_path, capsys) -> None:
    wrong = settings(3)
    changed = {name: one for name, one in (wrong[part] | {key: value}).items() if one is not ...}
    (tmp_path / "model_config.json").write_text(json.dumps(wrong | {part: changed}))
    words = [str(tmp_path), "--vlm", str(tmp_path), "--dimension", "VQ", "--store", str(tmp_path / "store")]
    assert run(["artifacts", "import-rm", *words]) == 4
    assert says in capsys.readouterr().err


def test_a_file_that_is_missing_or_cut_is_named(released, vlm, tmp_path, capsys) -> None:
    folder, _, _ = released
    command = ["artifacts", "import-rm", str(tmp_path / "copy"), "--vlm", str(vlm), "--dimension", "TA"]
    for name in ("adapter_model.safetensors", "non_lora_state_dict.pth"):
        copy = shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
        shutil.copyfile(folder.parent / "model_config.json", copy / "model_config.json")
        (copy / name).write_bytes((folder / name).read_bytes()[:1000])
        assert run([*command, "--store", str(tmp_path / "store")]) == 4
        assert f"{name} cannot be read: " in capsys.readouterr().err
        (copy / name).unlink()
        assert run([*command, "--store", str(tmp_path / "store")]) == 4
        assert f"{name} is missing" in capsys.readouterr().err


def test_two_dimensions_guard_a_training_and_stand_in_its_report(released, vlm, tmp_path, capsys) -> None:
    folder, wording, _ = released
    setting, store = write_setting(tmp_path), ["--store", str(tmp_path / "store"), "--json"]
    command = ["artifacts", "import-rm", str(folder), "--vlm", str(vlm), "--template", str(wording)]
    for name in ("VQ", "MQ"):
        assert run([*command, *store, "--dimension", name]) == 0
    guards = ["--reward", "quality=rm/videoalign-VQ*0.5", "--reward", "motion=rm/videoalign-MQ"]
    given = ["--base", setting["base"], "--cases", setting["cases"], "--rm", setting["rm"]]
    capsys.readouterr()
    assert run(["train-policy", *given, *guards, *SMALL, "--set", "preview.every=0", *store]) == 0
    policy = Path(json.loads(capsys.readouterr().out)["path"])
    row = json.loads((policy / "metrics.jsonl").read_text().splitlines()[0])
    parts = [row[f"reward_{name}_mean"] * weight for name, weight in (("rm", 1), ("quality", 0.5), ("motion", 1))]
    assert row["reward_mean"] == pytest.approx(sum(parts), rel=1e-4) and row["reward_failed_share"] == 0

    size = ["--size", "32x32x5", "--steps", "2", "--cases", setting["cases"]]
    assert run(["sample", "--base", setting["base"], *size, "--name", "plain", *store]) == 0
    assert run(["sample", "--policy", "policy", *size, "--name", "tuned", *store]) == 0
    capsys.readouterr()
    variants = ["--samples", "base=samples/plain", "--samples", "tuned=samples/tuned"]
    rewards = [word.partition("*")[0] for word in guards]
    finder = ["--finder", "policy_setting:ColourFinder", "--set", "statistics.num_resamples=200"]
    assert run(["eval", *variants, *rewards, *finder, *store]) == 0
    report = json.loads((Path(json.loads(capsys.readouterr().out)["path"]) / "report.json").read_text())
    assert {"quality", "motion"} <= report["comparisons"]["tuned"].keys()

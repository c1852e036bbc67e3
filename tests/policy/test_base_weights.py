"""`idgrpo train-policy --set engine.base_weights=int8` through the real command line, and `sample` of what it trained."""

import json
from pathlib import Path

import pytest
import torch
from policy_setting import SMALL, write_setting
from pydantic import ValidationError
from safetensors.torch import load_file

import idgrpo.bases.load
from idgrpo.bases.cost import transformer_bytes
from idgrpo.bases.entries import ENTRIES
from idgrpo.bases.inventory import configs_of_entry
from idgrpo.cli.main import run
from idgrpo.policy.config import PolicyConfig
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Sample

INT8 = ("--set", "engine.base_weights=int8", "--set", "rollout.merged=false", "--set", "preview.every=0")


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> dict[str, str]:
    return write_setting(tmp_path_factory.mktemp("setting"))


def integers(transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Give the quantised weights by their names without an adapter."""
    layers = {name.removesuffix(".base_layer"): layer for name, layer in transformer.named_modules()}
    return {
        name: layer.weight.qdata.clone()
        for name, layer in layers.items()
        if hasattr(getattr(layer, "weight", None), "qdata")
    }


def test_an_adapter_trains_on_int8_weights_and_samples_on_them(setting, tmp_path, monkeypatch, capsys):
    seen, quantise = [], idgrpo.bases.load.quantise

    def watched(transformer, *arguments):
        quantise(transformer, *arguments)
        seen.append((transformer, integers(transformer)))

    monkeypatch.setattr(idgrpo.bases.load, "quantise", watched)
    store = str(tmp_path / "store")
    given = ["--base", setting["base"], "--cases", setting["cases"], "--rm", setting["rm"], "--store", store]
    code = run(["train-policy", *given, *SMALL, *INT8, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == 0, document
    folder = Path(document["path"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["log_ratio_max"] <= 1e-5 and row["skipped_steps"] == 0 for row in rows[:1])
    factors = load_file(folder / "pytorch_lora_weights.safetensors")
    assert all(bool(value.any()) for key, value in factors.items() if "lora_B" in key), "they start at zero"
    (transformer, before) = seen[0]
    after = integers(transformer)
    assert len(before) > 10 and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

    size = ["--size", "32x32x5", "--steps", "2", "--cases", setting["cases"], "--store", store, "--json"]
    assert run(["sample", "--policy", "policy", *size]) == 0
    out, err = capsys.readouterr()
    assert "trained on int8 weights of the base; these clips are made with them too" in err
    samples = list(read_records(Path(json.loads(out)["path"]) / "samples.jsonl", Sample))
    assert {sample.sampler["base_weights"] for sample in samples} == {"int8"} and len(seen) == 2
    assert run(["sample", "--policy", "policy", "--set", "base_weights=float32", *size, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "trained on int8 weights of the base; these clips have float32" in err
    assert json.loads(out)["config"]["base_weights"] == "float32"


@pytest.mark.parametrize(
    "settings, words",
    [
        (("engine.base_weights=int8", "rollout.merged=true"), "rollout.merged=false"),
        (("engine.base_weights=int8", "train=full", "rollout.merged=false"), "is for a frozen base"),
        (("engine.base_weights=int8", "engine.zero=2", "rollout.merged=false"), "engine.zero"),
        (("engine.attention=sage",), "no backward pass"),
        (("engine.attention=nativ",), "did you mean 'native'?"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(settings, words, setting, tmp_path, capsys):
    sets = [word for setting in settings for word in ("--set", setting)]
    given = ["--base", "tiny-phantom", "--cases", setting["cases"], "--rm", setting["rm"], "--store", str(tmp_path)]
    assert run(["train-policy", *given, *sets, "--dry-run"]) == 2
    assert words in capsys.readouterr().err


def test_a_plan_counts_the_quantised_base(setting, tmp_path, capsys):
    given = ["--base", "tiny-vace", "--cases", setting["cases"], "--rm", setting["rm"], "--store", str(tmp_path)]
    plans = {}
    for kind in ("float32", "int8"):
        sets = ("--set", f"engine.base_weights={kind}", "--set", "rollout.merged=false")
        assert run(["train-policy", *given, *sets, "--dry-run", "--gpus", "1", "--json"]) == 0
        plans[kind] = json.loads(capsys.readouterr().out)["forecast"]
    config = configs_of_entry(ENTRIES["tiny-vace"])[0]
    saved = (transformer_bytes(config, 4) - transformer_bytes(config, 4, "int8")) / 2**30
    assert plans["float32"]["memory_gib"] - plans["int8"]["memory_gib"] == pytest.approx(saved, rel=1e-3)


def test_what_draws_no_clips_needs_no_word_about_its_rollout():
    setting = {"engine": {"base_weights": "int8"}, "rollout": {"merged": True}, "method": "sft"}
    assert PolicyConfig.model_validate(setting).method == "sft"
    with pytest.raises(ValidationError, match="rollout.merged"):
        PolicyConfig.model_validate(setting | {"method": "grpo"})

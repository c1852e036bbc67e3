import pytest
import torch
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

from idgrpo.bases.architectures import ARCHITECTURES
from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.cost import transformer_flop
from idgrpo.bases.entries import ENTRIES
from idgrpo.bases.inventory import at_hand, cost_lines, cost_of_entry
from idgrpo.bases.load import resolve_entry
from idgrpo.run.machine import deepspeed_problem

TRAIN = SamplerConfig(width=416, height=240, frames=33, num_steps=25, guidance=4.5)


@pytest.mark.parametrize("name", ["wan-1.3b", "vace-1.3b"])
def test_count_equals_torchs_own_counter_on_the_meta_device(name):
    config = ARCHITECTURES[name] | {"num_layers": 4}
    inputs = {"hidden_states": (1, 16, 3, 6, 8), "encoder_hidden_states": (1, 20, 4096)}
    if "vace_layers" in config:
        config |= {"vace_layers": [0, 2]}
        inputs["control_hidden_states"] = (1, 96, 3, 6, 8)
    with init_empty_weights():
        model = (WanVACETransformer3DModel if "vace_layers" in config else WanTransformer3DModel)(**config)
    model = model.to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tensors = {key: torch.empty(shape, device="meta") for key, shape in inputs.items()}
        model(timestep=torch.empty(1, device="meta"), return_dict=False, **tensors)
    assert transformer_flop(config, 3 * 3 * 4, 20) == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_the_authors_rollout_costs_what_was_computed_by_hand():
    # 5.79 PFLOP per training sample, of which 19.5 % are the rollout (25 steps, guidance, 240x416x33, two references).
    cost = cost_of_entry(ENTRIES["vace"], TRAIN, num_references=2)
    assert cost.num_tokens == 4290
    assert cost.sample_tflop == pytest.approx(5790 * 0.195, rel=0.05)


def test_guidance_decides_the_number_of_branches():
    three, two, one = (
        cost_of_entry(ENTRIES["phantom"], SamplerConfig(**changes), num_references=2)
        for changes in ({}, {"guidance": 5.0}, {"guidance_mode": "none"})
    )
    assert (three.num_branches, two.num_branches, one.num_branches) == (3, 2, 1)
    assert two.sample_tflop == pytest.approx(three.sample_tflop * 2 / 3)


def test_training_size_fits_24_gib_and_the_setting_that_fits_is_named():
    entry = ENTRIES["vace"]
    small = cost_of_entry(entry, TRAIN, num_references=2)
    assert small.memory_gib < 24
    assert cost_lines(entry, TRAIN, small, 2, 24.0)[-1].endswith("fits")
    large = SamplerConfig(batch_size=16)
    cost = cost_of_entry(entry, large, num_references=2)
    assert "--batch-size 1 --set encoder_device=cpu would" in cost_lines(entry, large, cost, 2, 14.0)[-1]
    assert "--batch-size 1 would" in cost_lines(entry, SamplerConfig(batch_size=3), cost, 2, 24.0)[-1]
    assert "no setting does" in cost_lines(entry, large, cost, 2, 2.0)[-1]


def test_the_text_encoder_counts_where_it_is_the_largest(checkpoints):
    """It leaves before the transformer is read: the plan added both, 4 GiB more than a run at full size took."""
    small = cost_of_entry(ENTRIES["vace"], SamplerConfig(width=64, height=64, frames=5, batch_size=1), num_references=1)
    encoding = 10 * 4 * 64 * 64 * 96 * 4  # of the VAE, while the text encoder is there
    assert small.memory_gib == pytest.approx((11.4e9 + 0.51e9 + encoding) / 1024**3)
    tiny = resolve_entry(str(checkpoints / "phantom-tiny"))
    assert cost_of_entry(tiny, SamplerConfig(), num_references=1).memory_gib < 0.1


def test_doctor_says_what_is_missing_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("IDGRPO_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    report = at_hand("phantom")
    assert not report["ready"]
    assert report["get"].startswith("hf download bytedance-research/Phantom")
    assert report["cost"]["num_tokens"] > 30_000


def test_doctor_says_where_weights_are(checkpoints):
    report = at_hand(str(checkpoints / "vace"))
    assert report["ready"]
    assert set(report["parts"]) == {"transformer", "vae", "text_encoder", "tokenizer"}


@pytest.mark.parametrize(
    ("raises", "words"),
    [
        ("class MissingCUDAException(Exception): pass\nraise MissingCUDAException('CUDA_HOME does not exist')", "nvcc"),
        ("raise OSError('CUDA_HOME environment variable is not set')", "nvcc"),
        ("raise ModuleNotFoundError('No module named hjson')", "not installed or lacks a part: No module named hjson"),
        ("raise RuntimeError('driver too old')", "RuntimeError: driver too old"),
        ("print('noise')", None),
    ],
)
def test_what_deepspeed_lacks_is_named(tmp_path, monkeypatch, capsys, raises, words):
    import sys

    (tmp_path / "deepspeed.py").write_text(raises)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)
    found = deepspeed_problem()
    assert found is None if words is None else words in found
    assert capsys.readouterr().out == "", "stdout carries the result alone"
    sys.modules.pop("deepspeed", None)

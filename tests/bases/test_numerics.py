"""Quantised frozen weights and the choice of the attention kernel, on tiny random bases on the CPU."""

import importlib.util

import pytest
import torch
from tiny_checkpoints import SIZE, draw

from idgrpo.bases import lora, numerics
from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.contract import Guidance
from idgrpo.bases.cost import transformer_bytes, transformer_parameters
from idgrpo.bases.entries import ENTRIES
from idgrpo.bases.inventory import cost_of_entry
from idgrpo.bases.load import load_base
from idgrpo.cli.main import run
from idgrpo.errors import MachineError, UsageError

KINDS = ["int8", "fp8"]
ERRORS = {"int8": 0.05, "fp8": 0.15}
"""Of a velocity, in its own root mean square."""


def velocity(base, photos):
    batch = base.collate([base.encode("a man with red hair", photos[:2], SIZE)])
    state = draw((1, *base.latent_shape(SIZE, 2)))
    return base.velocity(state, torch.tensor([0.6]), batch, Guidance(2.0, 1.5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_computes_nearly_the_same_and_carries_an_adapter(kind, checkpoints, photos, tmp_path):
    name = str(checkpoints / "vace-tiny")
    plain, quantised = load_base(name), load_base(name, base_weights=kind)
    want, got = velocity(plain, photos), velocity(quantised, photos)
    error = float((want - got).square().mean().sqrt() / want.square().mean().sqrt())
    assert 1e-4 < error < ERRORS[kind]
    parameters = lora.attach(quantised, rank=2, alpha=4)
    assert torch.equal(got, velocity(quantised, photos)), "a fresh adapter changes nothing"
    with torch.no_grad():
        for number, (_, layer) in enumerate(lora.lora_layers(quantised)):
            layer.lora_B[lora.POLICY].weight.copy_(draw(tuple(layer.lora_B[lora.POLICY].weight.shape), number) * 0.2)
    tuned = velocity(quantised, photos)
    tuned.square().mean().backward()
    assert all(p.dtype == torch.float32 and p.grad is not None and bool(p.grad.any()) for p in parameters)
    assert not any(p.requires_grad for name, p in quantised.transformer.named_parameters() if ".lora_" not in name)
    with lora.reference_pass(quantised):
        assert torch.equal(got, velocity(quantised, photos))
    file = lora.save_adapter(quantised, tmp_path)
    again = load_base(name, base_weights=kind)
    lora.load_adapter(again, file)
    assert torch.equal(tuned, velocity(again, photos))


def test_gradients_of_an_adapter_are_those_on_the_dequantised_weights(checkpoints, photos):
    grads = []
    for is_quantised in (True, False):
        base = load_base(str(checkpoints / "phantom-tiny"), base_weights="int8")
        if not is_quantised:
            for layer in base.transformer.modules():
                if isinstance(layer, torch.nn.Linear) and hasattr(layer.weight, "qdata"):
                    layer.weight = torch.nn.Parameter(layer.weight.dequantize(), requires_grad=False)
        parameters = lora.attach(base, rank=2)
        velocity(base, photos).square().mean().backward()
        grads.append(torch.cat([p.grad.flatten() for p in parameters]))
    assert float(grads[0].norm()) > 0
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6 * float(grads[1].abs().max()))


@pytest.mark.parametrize("name", ["tiny-vace", "tiny-phantom"])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_that_a_plan_counts_and_at_most_0_6_of_bf16(kind, name):
    base = load_base(name, base_weights=kind)
    counted = numerics.stored_bytes(base.transformer)
    rope = sum(buffer.numel() * buffer.element_size() for buffer in base.transformer.buffers())
    planned = transformer_bytes(base.transformer_config, 4, kind)
    assert planned == counted - rope
    assert planned <= 0.6 * 2 * transformer_parameters(base.transformer_config)  # the rest in float32, as on a CPU
    blocks = [block.attn1.to_q.weight for block in base.transformer.blocks]
    assert all(numerics._bytes_of(weight) <= 0.53 * 2 * 128 * 128 for weight in blocks)


def test_a_plan_counts_quantised_weights():
    entry, sampler = ENTRIES["vace-14b"], SamplerConfig(width=416, height=240, frames=33)
    costs = {kind: cost_of_entry(entry, sampler, num_references=2, base_weights=kind) for kind in (None, "int8", "nf4")}
    assert costs["int8"].transformer_gib == pytest.approx(0.5 * costs[None].transformer_gib, rel=0.02)
    assert costs["nf4"].transformer_gib == pytest.approx(0.28 * costs[None].transformer_gib, rel=0.03)
    saved = costs[None].transformer_gib - costs["int8"].transformer_gib
    assert costs[None].memory_gib - costs["int8"].memory_gib == pytest.approx(saved)


def test_names_of_dtypes_are_the_dtype(checkpoints):
    assert load_base(str(checkpoints / "phantom-tiny"), base_weights="bf16").dtype == torch.bfloat16
    assert load_base(str(checkpoints / "phantom-tiny"), base_weights="float32").dtype == torch.float32


@pytest.mark.parametrize("kind, line", [("int8", "idgrpo[quantised]"), ("nf4", "idgrpo[nf4]")])
def test_a_missing_library_is_named_with_its_install_line(kind, line, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in ("torchao", "bitsandbytes") else find(name, *a)
    )
    with pytest.raises(MachineError, match="which is not installed") as caught:
        numerics.require_library(kind, torch.device("cuda"))
    assert line in caught.value.fix and caught.value.exit_code == 6


def test_nf4_is_refused_on_a_cpu_before_its_library_is_asked_for(checkpoints, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None)  # nobody installs a library for nothing
    with pytest.raises(MachineError, match="need a GPU"):
        load_base(str(checkpoints / "phantom-tiny"), base_weights="nf4")


def test_an_original_checkpoint_is_quantised_too(checkpoints, photos):
    path = next((checkpoints / "original").glob("*.pth"))
    base = load_base(str(path), base_weights="int8")
    assert hasattr(base.transformer.blocks[0].attn1.to_q.weight, "qdata")


# --- attention ---


def test_the_native_kernel_is_what_diffusers_takes_itself(checkpoints, photos):
    plain = velocity(load_base(str(checkpoints / "vace-tiny")), photos)
    named = load_base(str(checkpoints / "vace-tiny"), attention="native")
    assert torch.equal(plain, velocity(named, photos))
    processors = [block.attn1.processor for block in (*named.transformer.blocks, *named.transformer.vace_blocks)]
    assert {str(getattr(p._attention_backend, "value", p._attention_backend)) for p in processors} == {"native"}
    other = load_base(str(checkpoints / "vace-tiny"), attention="_native_math")
    torch.testing.assert_close(velocity(other, photos), plain, rtol=1e-4, atol=1e-5)


def test_a_kernel_of_one_base_does_not_become_anothers(checkpoints, photos):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    before = _AttentionBackendRegistry.get_active_backend()[0]
    load_base(str(checkpoints / "vace-tiny"), attention="_native_math")
    assert _AttentionBackendRegistry.get_active_backend()[0] == before


def test_an_unknown_kernel_is_refused_with_the_nearest_name(checkpoints):
    with pytest.raises(UsageError, match="attention kernel 'nativ' is unknown") as caught:
        load_base(str(checkpoints / "phantom-tiny"), attention="nativ")
    assert "did you mean 'native'?" in caught.value.fix and caught.value.exit_code == 2


def test_a_kernel_whose_package_is_missing_names_the_package(checkpoints):
    with pytest.raises(MachineError, match="xformers"):
        load_base(str(checkpoints / "phantom-tiny"), attention="xformers")


def test_a_kernel_that_is_there_and_does_not_work_on_the_device_is_refused(checkpoints):
    with pytest.raises(MachineError, match="'_native_cudnn' does not work on cpu in torch.float32: "):
        load_base(str(checkpoints / "phantom-tiny"), attention="_native_cudnn")


def test_the_command_refuses_both(tmp_path, capsys):
    command = ["sample", "--base", "tiny-phantom", "--store", str(tmp_path / "store"), "--dry-run"]
    assert run([*command, "--set", "attention=nativ"]) == 2
    assert "did you mean 'native'?" in capsys.readouterr().err
    assert run([*command, "--set", "attention=flash"]) == 6
    assert "flash-attn" in capsys.readouterr().err
    assert run([*command, "--set", "base_weights=int7"]) == 2
    assert "base_weights" in capsys.readouterr().err

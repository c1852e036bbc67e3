"""What may be set about the transformer's blocks changes speed and memory, and neither gradients nor names of weights."""

import pytest
import torch
from tiny_checkpoints import TINY_VAE, write_diffusers_base
from torch.autograd.graph import saved_tensors_hooks

from idgrpo.bases.load import load_base
from idgrpo.policy.config import EngineConfig
from idgrpo.policy.train import prepare_blocks


@pytest.fixture(scope="module", params=["vace", "phantom"])
def folder(request, tmp_path_factory):
    return write_diffusers_base(tmp_path_factory.mktemp("base") / request.param, request.param, TINY_VAE)


def gradients(folder, **settings) -> tuple[dict[str, torch.Tensor], int]:
    """Give the gradient of one forward, by name, and the bytes that the graph kept for it."""
    base = load_base(str(folder))
    base.transformer.requires_grad_(True)
    prepare_blocks(base, EngineConfig(**settings))
    references = [torch.full((3, 32, 32), 90, dtype=torch.uint8), torch.full((3, 32, 32), 200, dtype=torch.uint8)]
    with torch.no_grad():
        batch = base.collate([base.encode("two people walk", references, base.entry.train_size)])
    shape = base.latent_shape(base.entry.train_size, 2)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    kept: dict[int, int] = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        velocity = base.velocity(x, torch.tensor([0.7], dtype=torch.float64), batch, None)
    velocity.square().mean().backward()
    return {name: p.grad for name, p in base.transformer.named_parameters() if p.grad is not None}, sum(kept.values())


def test_recomputation_gives_the_same_gradients_from_less_memory(folder):
    whole, most = gradients(folder, recompute="off")
    for choice in ("selective", "on"):
        again, fewer = gradients(folder, recompute=choice)
        assert again.keys() == whole.keys()
        assert all(torch.equal(again[name], whole[name]) for name in whole)
        assert fewer < most


def test_compiled_blocks_give_the_same_gradients_under_the_same_names(folder, monkeypatch):
    """Traced, but not turned into machine code, which would take minutes."""
    compiled, original = [], torch.nn.Module.compile

    def traced(block, backend):
        compiled.append(type(block).__name__)
        original(block, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    plain, _ = gradients(folder, recompute="off")
    assert not compiled
    fast, _ = gradients(folder, recompute="off", compile=True)
    assert len(compiled) > 1 and all("Block" in name for name in compiled)
    assert fast.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(fast[name], plain[name], rtol=1e-4, atol=1e-6)

import dataclasses
import json

import pytest
import tiny_checkpoints
import torch
from diffusers import WanPipeline, WanVACEPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_checkpoints import SIZE, draw

from idgrpo.bases import lora
from idgrpo.bases.contract import Guidance
from idgrpo.bases.export import adapter_of_comfy, export_adapter
from idgrpo.bases.load import load_base
from idgrpo.errors import ArtifactError, UsageError


def velocity(base, photos, scale=2.0):
    batch = base.collate([base.encode("a man with red hair", photos[:2], SIZE)])
    state = draw((1, *base.latent_shape(SIZE, 2)))
    return base.velocity(state, torch.tensor([0.6]), batch, Guidance(scale, 1.5)).detach()


def trained(base, *, rank=4, alpha=8.0, targets=None, seed=3):
    """Attach an adapter and give its B matrices values as training would."""
    lora.attach(base, rank=rank, alpha=alpha, targets=targets, seed=seed)
    with torch.no_grad():
        for number, (_, layer) in enumerate(lora.lora_layers(base)):
            weight = layer.lora_B[lora.POLICY].weight
            weight.copy_(draw(tuple(weight.shape), number) * 0.2)
    return base


def test_a_fresh_adapter_changes_nothing(base, photos):
    before = velocity(base, photos)
    parameters = lora.attach(base, rank=4, seed=1)
    assert torch.equal(before, velocity(base, photos))
    assert parameters
    assert all(p.dtype == torch.float32 and p.requires_grad for p in parameters)
    assert sum(p.requires_grad for p in base.transformer.parameters()) == len(parameters)


def test_targets_cover_all_attention_and_feed_forward(vace):
    lora.attach(vace, rank=2, targets=lora.TARGET_SETS["attention+ffn"])
    names = [name for name, _ in lora.lora_layers(vace)]
    # 2 blocks and 2 control blocks, each with 2 x 4 attention layers and 2 feed-forward layers.
    assert len(names) == 4 * (8 + 2)
    assert sum(name.startswith("vace_blocks") for name in names) == 2 * 10


def test_start_values_depend_on_the_seed_alone(checkpoints):
    states = []
    for seed, disturbed in ((1, False), (1, True), (2, False)):
        base = load_base(str(checkpoints / "phantom"))
        if disturbed:
            torch.rand(17)
        lora.attach(base, rank=4, seed=seed)
        states.append(lora.adapter_state(base))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(*(next(v for k, v in state.items() if "lora_A" in k) for state in (states[0], states[2])))


def test_unknown_targets_are_named(phantom):
    with pytest.raises(UsageError, match="match no layer of .*: to_x"):
        lora.attach(phantom, rank=2, targets=["to_q", "to_x"])


def test_reference_pass_is_exactly_the_base(base, photos):
    before = velocity(base, photos)
    trained(base)
    tuned = velocity(base, photos)
    names = [name for name, p in base.transformer.named_parameters() if p.requires_grad]
    with lora.reference_pass(base):
        assert torch.equal(before, velocity(base, photos))
    assert torch.equal(tuned, velocity(base, photos))
    assert float((tuned - before).abs().max()) > 1e-3
    assert names == [name for name, p in base.transformer.named_parameters() if p.requires_grad]


def test_reference_pass_does_not_disturb_a_recorded_graph(phantom, photos):
    trained(phantom)
    batch = phantom.collate([phantom.encode("a man", photos[:1], SIZE)])
    state, time = draw((1, *phantom.latent_shape(SIZE, 1))), torch.tensor([0.6])
    parameters = lora.trainable_parameters(phantom)
    loss = phantom.velocity(state, time, batch, Guidance(mode="none")).square().sum()
    expected = torch.autograd.grad(loss, parameters)
    loss = phantom.velocity(state, time, batch, Guidance(mode="none")).square().sum()
    with lora.reference_pass(phantom), torch.no_grad():
        phantom.velocity(state, time, batch, Guidance(mode="none"))
    loss.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, expected, strict=True))


def test_a_kept_start_adapter_is_the_reference(phantom, photos):
    trained(phantom)
    start = velocity(phantom, photos)
    lora.keep_reference(phantom)
    assert torch.equal(start, velocity(phantom, photos))
    with torch.no_grad():
        for parameter in lora.trainable_parameters(phantom):
            parameter.add_(0.1)
    moved = velocity(phantom, photos)
    with lora.reference_pass(phantom):
        assert torch.equal(start, velocity(phantom, photos))
    assert torch.equal(moved, velocity(phantom, photos))
    assert not any("reference" in name for name, p in phantom.transformer.named_parameters() if p.requires_grad)
    assert not any("reference" in key for key in lora.adapter_state(phantom))


def test_equal_adapters_are_equal_files(phantom, tmp_path):
    trained(phantom)
    contents = {lora.save_adapter(phantom, tmp_path / str(number)).read_bytes() for number in range(6)}
    assert len(contents) == 1
    content = contents.pop()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == sorted(header["__metadata__"]) and len(header["__metadata__"]) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_equals_the_adapter_and_gives_every_bit_back(checkpoints, photos, dtype):
    base = trained(load_base(str(checkpoints / "vace"), dtype=dtype))
    weights = {key: value.clone() for key, value in base.transformer.state_dict().items()}
    tuned = velocity(base, photos)
    with lora.merged(base):
        close = velocity(base, photos)
    assert float((close - tuned).abs().max()) < (1e-5 if dtype == torch.float32 else 0.2)
    assert torch.equal(tuned, velocity(base, photos))
    assert all(torch.equal(value, weights[key]) for key, value in base.transformer.state_dict().items())


def test_merged_gives_the_weights_back_after_an_error(phantom, photos):
    trained(phantom)
    tuned = velocity(phantom, photos)
    with pytest.raises(RuntimeError, match="stop"), lora.merged(phantom):
        raise RuntimeError("stop")
    assert torch.equal(tuned, velocity(phantom, photos))


def test_half_precision_base_keeps_float32_adapters(checkpoints, photos):
    base = trained(load_base(str(checkpoints / "phantom"), dtype=torch.bfloat16))
    assert {p.dtype for p in lora.trainable_parameters(base)} == {torch.float32}
    batch = base.collate([base.encode("a man", photos[:1], SIZE)])
    out = base.velocity(draw((1, *base.latent_shape(SIZE, 1))), torch.tensor([0.6]), batch, Guidance(mode="none"))
    out.square().mean().backward()
    assert out.dtype == torch.float32
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in lora.trainable_parameters(base))


def test_gradient_checkpointing_gives_identical_gradients(base, photos):
    trained(base)
    batch = base.collate([base.encode("a man", photos[:2], SIZE)])
    state, time = draw((1, *base.latent_shape(SIZE, 2))), torch.tensor([0.6])
    gradients = []
    for _ in range(2):
        loss = base.velocity(state, time, batch, Guidance(2.0, 1.5)).square().sum()
        gradients.append(torch.autograd.grad(loss, lora.trainable_parameters(base)))
        base.transformer.enable_gradient_checkpointing()
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_full_size_bases_recompute_activations_when_they_are_trained(vace, fresh, tmp_path):
    assert not trained(vace).transformer.is_gradient_checkpointing, "the embedded world has memory enough"
    path = lora.save_adapter(vace, tmp_path)
    for train in (lambda base: lora.attach(base, rank=2), lambda base: lora.load_adapter(base, path, trainable=True)):
        base = fresh("vace")
        base.entry = dataclasses.replace(base.entry, architecture="vace-1.3b")
        train(base)
        assert base.transformer.is_gradient_checkpointing


@pytest.mark.parametrize("targets", ["attention", "attention+ffn"])
def test_save_and_load_round_trip(base, checkpoints, tmp_path, photos, targets):
    trained(base, targets=lora.TARGET_SETS[targets])
    path = lora.save_adapter(base, tmp_path / "adapter")
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    assert metadata["transformer.lora_alpha"] == 8.0
    fresh = load_base(base.entry.source)
    parameters = lora.load_adapter(fresh, tmp_path / "adapter", trainable=True)
    assert len(parameters) == len(lora.trainable_parameters(base))
    assert torch.equal(velocity(base, photos), velocity(fresh, photos))
    frozen = load_base(base.entry.source)
    assert lora.load_adapter(frozen, path) == []


def test_diffusers_pipelines_load_it(checkpoints, tmp_path, photos):
    for name, pipeline_class in (("vace", WanVACEPipeline), ("phantom", WanPipeline)):
        base = trained(load_base(str(checkpoints / name)))
        lora.save_adapter(base, tmp_path / name)
        pipeline = pipeline_class.from_pretrained(checkpoints / name, local_files_only=True)
        pipeline.load_lora_weights(tmp_path / name)
        expected = velocity(base, photos)
        base.transformer = pipeline.transformer
        assert torch.equal(expected, velocity(base, photos))


def comfy_file(base, folder):
    """Save the adapter and export it for ComfyUI; gives the file."""
    out = folder / "out" / f"{base.entry.family}.safetensors"
    export_adapter(lora.save_adapter(base, folder / base.entry.family), "comfyui", out)
    return out


def test_comfy_export_has_the_original_names_and_goes_back(checkpoints, tmp_path, photos):
    for name in ("vace", "phantom"):
        base = trained(load_base(str(checkpoints / name)), targets=lora.TARGET_SETS["attention+ffn"])
        state = load_file(comfy_file(base, tmp_path))
        assert "diffusion_model.blocks.0.self_attn.q.lora_A.weight" in state
        assert "diffusion_model.blocks.1.ffn.2.lora_B.weight" in state
        assert float(state["diffusion_model.blocks.1.cross_attn.o.alpha"]) == 8.0
        assert ("diffusion_model.vace_blocks.0.self_attn.k.lora_A.weight" in state) == (name == "vace")
        back = adapter_of_comfy(state)
        assert (back.alpha, back.rank) == (8.0, 4)
        scaled = {key: value * (2.0 if ".lora_A." in key else 1.0) for key, value in back.state.items()}
        save_file({f"transformer.{key}": value for key, value in scaled.items()}, tmp_path / "back.safetensors")
        fresh = load_base(str(checkpoints / name))
        lora.load_adapter(fresh, tmp_path / "back.safetensors")  # no metadata: alpha is the rank
        assert torch.allclose(velocity(base, photos), velocity(fresh, photos), atol=1e-5)


@pytest.mark.parametrize("name", ["vace-1.3b", "wan-1.3b", "vace-14b", "wan-14b"])
def test_comfy_finds_every_layer_of_the_full_size_models(name):
    """Restated from ComfyUI (`comfy/lora.py`, `comfy/ldm/wan/model.py`): which layer each key of the file patches."""
    from accelerate import init_empty_weights
    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

    from idgrpo.bases.architectures import ARCHITECTURES
    from idgrpo.bases.export import Adapter, comfy_state

    config = ARCHITECTURES[name]
    num_vace = len(config.get("vace_layers", []))
    inside = [f"{kind}_attn.{part}" for kind in ("self", "cross") for part in "qkvo"] + ["ffn.0", "ffn.2"]
    blocks = [f"blocks.{k}" for k in range(config["num_layers"])] + [f"vace_blocks.{k}" for k in range(num_vace)]
    # ComfyUI's vace_layers_mapping wants the control blocks evenly spaced.
    assert (
        config.get("vace_layers", [])
        == list(range(0, config["num_layers"], config["num_layers"] // (num_vace or 1)))[:num_vace]
    )
    with init_empty_weights():
        model = (WanVACETransformer3DModel if num_vace else WanTransformer3DModel)(**config)
    layers = [
        key.removesuffix(".weight")
        for key in model.state_dict()
        if key.endswith(tuple(f".{target}.weight" for target in lora.TARGET_SETS["attention+ffn"]))
    ]
    state = {f"{layer}.lora_{side}.weight": torch.zeros(1, 1) for layer in layers for side in "AB"}
    patched = {key.rpartition(".lora_A")[0] for key in comfy_state(Adapter(state, 1.0)) if ".lora_A." in key}
    assert patched == {f"diffusion_model.{block}.{layer}" for block in blocks for layer in inside}


def test_comfy_export_applies_as_comfy_does(phantom, tmp_path, photos):
    # ComfyUI: weight + alpha / rank * B @ A on the layer of the original name.
    trained(phantom)
    tuned = velocity(phantom, photos)
    state = load_file(comfy_file(phantom, tmp_path))
    fresh = load_base(phantom.entry.source)
    weights = tiny_checkpoints.original_state(fresh.transformer)
    for key in [key for key in state if ".lora_A." in key]:
        layer = key.removesuffix(".lora_A.weight")
        scale = float(state[f"{layer}.alpha"]) / state[key].shape[0]
        target = layer.removeprefix("diffusion_model.") + ".weight"
        weights[target] = weights[target] + scale * state[f"{layer}.lora_B.weight"] @ state[key]
    from idgrpo.bases.keymap import to_diffusers

    fresh.transformer.load_state_dict({to_diffusers(key): value for key, value in weights.items()})
    assert float((velocity(fresh, photos) - tuned).abs().max()) < 1e-5


def test_diffusers_reads_the_comfy_export_of_phantom(checkpoints, tmp_path, photos):
    base = trained(load_base(str(checkpoints / "phantom")))
    path = comfy_file(base, tmp_path)
    pipeline = WanPipeline.from_pretrained(checkpoints / "phantom", local_files_only=True)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    expected = velocity(base, photos)
    base.transformer = pipeline.transformer
    assert torch.allclose(expected, velocity(base, photos), atol=1e-5)


class TestBadAdapters:
    @pytest.fixture
    def saved(self, checkpoints, tmp_path):
        return lora.save_adapter(trained(load_base(str(checkpoints / "phantom"))), tmp_path)

    def test_missing(self, phantom, tmp_path):
        with pytest.raises(ArtifactError, match="no adapter at"):
            lora.load_adapter(phantom, tmp_path / "nothing")

    def test_truncated(self, phantom, saved):
        saved.write_bytes(saved.read_bytes()[:500])
        with pytest.raises(ArtifactError, match="cannot be read"):
            lora.load_adapter(phantom, saved)

    def test_peft_prefix_would_load_as_nothing(self, phantom, saved):
        state = {key.replace("transformer.", "base_model.model."): value for key, value in load_file(saved).items()}
        save_file(state, saved)
        with pytest.raises(ArtifactError, match="not in diffusers' format"):
            lora.load_adapter(phantom, saved)

    def test_of_another_base(self, phantom, checkpoints, tmp_path):
        path = lora.save_adapter(trained(load_base(str(checkpoints / "vace"))), tmp_path / "vace")
        with pytest.raises(ArtifactError, match="for another base: no layer vace_blocks"):
            lora.load_adapter(phantom, path)

    def test_of_another_width(self, phantom, saved):
        state = {key: value[:, :-1] if "lora_A" in key else value for key, value in load_file(saved).items()}
        save_file({key: value.contiguous() for key, value in state.items()}, saved)
        with pytest.raises(ArtifactError, match="cannot be read"):
            lora.load_adapter(phantom, saved)

    def test_half_of_a_layer(self, phantom, saved):
        state = load_file(saved)
        lost = next(key for key in state if "lora_B" in key)
        save_file({key: value for key, value in state.items() if key != lost}, saved)
        with pytest.raises(ArtifactError, match=f"does not fit its layers: {lost}"):
            lora.load_adapter(phantom, saved)

    def test_second(self, phantom, saved):
        lora.load_adapter(phantom, saved)
        with pytest.raises(UsageError, match="already carries an adapter"):
            lora.load_adapter(phantom, saved)

    def test_untrained_is_fine(self, phantom, checkpoints, tmp_path):
        base = load_base(str(checkpoints / "phantom"))
        lora.attach(base, rank=2)
        lora.save_adapter(base, tmp_path / "fresh")
        lora.load_adapter(phantom, tmp_path / "fresh")


class TestHalfPrecisionBase:
    """Adapters are float32 masters on a bfloat16 base: every bit is kept, and no activation is computed in float32 for them."""

    @pytest.fixture
    def half(self, checkpoints):
        return lambda: load_base(str(checkpoints / "phantom"), dtype=torch.bfloat16)

    def test_a_first_step_is_no_damage(self, half, tmp_path):
        """One update at 1e-4, averaged, moves no bfloat16 output of a small model: it was refused as having no effect."""
        base = half()
        lora.attach(base, rank=2)
        for name, weight in base.transformer.named_parameters():
            if "lora_B" in name:
                weight.data.fill_(1e-5)
        lora.save_adapter(base, tmp_path / "first")
        loaded = half()
        lora.load_adapter(loaded, tmp_path / "first")
        assert all(
            float(layer.lora_B[lora.POLICY].weight.max()) == pytest.approx(1e-5)
            for _, layer in lora.lora_layers(loaded)
        )

    def test_a_policy_keeps_every_number(self, checkpoints, half, tmp_path):
        path = lora.save_adapter(trained(load_base(str(checkpoints / "phantom"))), tmp_path)
        base = half()
        lora.load_adapter(base, path)
        kept = {f"transformer.{key}": value for key, value in lora.adapter_state(base).items()}
        stored = load_file(path)
        assert kept.keys() == stored.keys()
        assert all(torch.equal(kept[key], value) for key, value in stored.items())

    def test_activations_are_not_copied_into_float32(self, half, photos):
        """Count the bytes of every float32 tensor as large as a token row that a forward makes."""
        from torch.utils._python_dispatch import TorchDispatchMode

        class FloatBytes(TorchDispatchMode):
            total = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                for value in out if isinstance(out, tuple | list) else [out]:
                    # [batch, token, channel]: an activation, not a factor of an adapter
                    if isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.ndim >= 3:
                        self.total += value.numel() * 4
                return out

        def float_bytes(base):
            batch = base.collate([base.encode("a man", photos[:1], SIZE)])
            state, time = draw((1, *base.latent_shape(SIZE, 1))), torch.tensor([0.6])
            with torch.no_grad(), FloatBytes() as counter:
                base.velocity(state, time, batch, Guidance(mode="none"))
            return counter.total

        plain, base = float_bytes(half()), half()
        trained(base)
        assert float_bytes(base) == plain

    def test_the_forward_uses_the_factors(self, checkpoints, half, photos):
        """bfloat16 with an adapter is as near to float32 with it as bfloat16 without is to float32 without."""
        whole = load_base(str(checkpoints / "phantom"))
        base = half()
        rounding = (velocity(base, photos) - velocity(whole, photos)).std()
        trained(whole), trained(base)
        moved = (velocity(whole, photos) - velocity(load_base(whole.entry.source), photos)).std()
        assert (velocity(base, photos) - velocity(whole, photos)).std() < 2 * rounding < moved

    def test_gradients_reach_the_masters_in_float32(self, checkpoints, half, photos):
        gradients = []
        for base in (load_base(str(checkpoints / "phantom")), half()):
            trained(base)
            velocity_of = base.velocity(
                draw((1, *base.latent_shape(SIZE, 1))),
                torch.tensor([0.6]),
                base.collate([base.encode("a man", photos[:1], SIZE)]),
                Guidance(mode="none"),
            )
            found = torch.autograd.grad(velocity_of.square().mean(), lora.trainable_parameters(base))
            assert {value.dtype for value in found} == {torch.float32}
            gradients.append(torch.cat([value.flatten() for value in found]))
        assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99

    def test_a_kept_reference_is_computed_alike(self, half, photos):
        base = trained(half())
        start = velocity(base, photos)
        lora.keep_reference(base)
        with lora.reference_pass(base):
            assert torch.equal(start, velocity(base, photos))


class TestCompiledBlocks:
    """Adapters on, off, with graph and without: all compiled, none left to run as it is."""

    @pytest.fixture(autouse=True)
    def small_limit(self):
        """Let torch compile a block twice only, so that few variants show what many do."""
        import torch._dynamo

        torch._dynamo.reset()
        with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=False):
            yield
        torch._dynamo.reset()

    def variants(self, base, photos):
        batch = base.collate([base.encode("a man", photos[:1], SIZE)])
        inputs = (draw((1, *base.latent_shape(SIZE, 1))), torch.tensor([0.6]), batch, Guidance(mode="none"))
        results = []
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                results.append(base.velocity(*inputs).detach())
                with lora.reference_pass(base):
                    results.append(base.velocity(*inputs).detach())
        return results

    def test_every_variant_is_compiled(self, phantom, photos):
        from torch._dynamo.utils import counters

        trained(phantom)
        expected = self.variants(phantom, photos)
        lora.compile_blocks(phantom, backend="eager")
        counters.clear()
        found = self.variants(phantom, photos)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))
        compiled = counters["stats"]["unique_graphs"]
        assert compiled > 2, "more than torch would have compiled"
        self.variants(phantom, photos)
        assert counters["stats"]["unique_graphs"] == compiled, "nothing is compiled twice"
        assert any(name == "blocks.0.attn1.to_q" for name, _ in lora.lora_layers(phantom)), "names stay"

    def test_running_out_of_variants_is_an_error(self, phantom, photos, monkeypatch):
        import torch._dynamo

        trained(phantom)
        monkeypatch.setattr(lora, "COMPILED_VARIANTS", 1)
        lora.compile_blocks(phantom, backend="eager")
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            self.variants(phantom, photos)

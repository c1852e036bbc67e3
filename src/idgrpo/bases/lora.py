"""LoRA adapters on a base: attach, train, switch off for the reference pass, merge for fast rollout, save and load.

Adapters are PEFT's; files are diffusers' (`load_lora_weights` of the Wan pipelines reads them).
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from idgrpo.bases.contract import Base
from idgrpo.bases.finite import require_finite_weights
from idgrpo.bases.weights import read_finite, reading_weights, sort_header
from idgrpo.errors import ArtifactError, UsageError
from idgrpo.run.draws import generator

ATTENTION_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD_TARGETS = ("ffn.net.0.proj", "ffn.net.2")
log = logging.getLogger(__name__)

TARGET_SETS = {
    "attention": ATTENTION_TARGETS,
    "attention+ffn": ATTENTION_TARGETS + FEED_FORWARD_TARGETS,
}
"""Target lists by name; both hold in `blocks` (and `vace_blocks` of VACE), self- and cross-attention."""

POLICY = "policy"
REFERENCE = "reference"
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
ORDER_KEY = "reference_order"
"""Metadata of a VACE adapter: `forward` (the case's order) or `reversed` (as diffusers' pipeline puts references)."""


class MasterLinear(nn.Linear):
    """A factor of an adapter: kept in float32, used in the dtype of its input.

    A bfloat16 base computes with bfloat16 copies of the factors, made anew in each forward: small, while float32 products
    would copy the input of each layer (q, k and v each the same one), and their results, into float32. Gradients arrive in
    float32. On a float32 base nothing is copied.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight.to(input.dtype))


def _make_masters(base: Base) -> None:
    """Put every factor on the base into a float32 `MasterLinear`; names of weights stay as they are."""
    for _, layer in lora_layers(base):
        layer.cast_input_dtype_enabled = False  # PEFT would cast the input to the factors' dtype
        for matrices in (layer.lora_A, layer.lora_B):
            for adapter, factor in matrices.items():
                if isinstance(factor, MasterLinear):
                    continue
                master = MasterLinear(factor.in_features, factor.out_features, bias=False, device="meta")
                master.weight = nn.Parameter(factor.weight.detach().float(), factor.weight.requires_grad)
                matrices[adapter] = master


def attach(
    base: Base, *, rank: int, alpha: float | None = None, targets: Sequence[str] | None = None, seed: int = 0
) -> list[nn.Parameter]:
    """Put a fresh trainable adapter on the transformer; it changes nothing until it is trained (B is zero).

    A is uniform in +-1/sqrt(fan in), drawn from (seed, module name), so that it depends on no global generator.
    Adapters are float32 whatever the base's dtype. alpha None means rank. Full-size bases recompute activations in the
    backward pass from then on. Raises UsageError when a target matches no module.
    """
    from peft import LoraConfig

    targets = tuple(targets or ATTENTION_TARGETS)
    names = [name for name, module in base.transformer.named_modules() if isinstance(module, nn.Linear)]
    unmatched = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]
    if unmatched:
        raise UsageError(
            f"LoRA targets match no layer of {base.name}: {', '.join(unmatched)}",
            fix=f"use some of {', '.join(ATTENTION_TARGETS + FEED_FORWARD_TARGETS)}",
        )
    base.transformer.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=list(targets))
    transformer: Any = base.transformer  # diffusers adds the adapter methods
    transformer.add_adapter(config, adapter_name=POLICY)
    _make_masters(base)
    with torch.no_grad():
        for name, layer in lora_layers(base):
            first = layer.lora_A[POLICY].weight
            bound = 1.0 / math.sqrt(first.shape[1])
            drawn = torch.empty(first.shape).uniform_(-bound, bound, generator=generator("lora", seed, name))
            first.data = drawn.to(first.device)
            layer.lora_B[POLICY].weight.zero_()
    recompute_activations(base)
    return trainable_parameters(base)


def recompute_activations(base: Base) -> None:
    """Trade a second forward for memory: the activations of all blocks of a full-size base fit no GPU. Same gradients."""
    if base.entry.architecture != "tiny":
        base.transformer.enable_gradient_checkpointing()


COMPILED_VARIANTS = 64
"""Of a block: adapters on, off or of the reference, with and without graph, static and dynamic shapes; torch allows 8."""


def compile_blocks(base: Base, backend: str = "inductor") -> None:
    """Compile the transformer's blocks in place; names of weights stay as they are.

    All blocks share one code, which torch compiles again for each switch of the adapters and each kind of shape, and leaves
    uncompiled with a line in the log after 8 times; rollout and replay would then compute differently. Here there is room
    for all variants of the process, and running out of it is an error.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_VARIANTS)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for blocks in ("blocks", "vace_blocks"):
        for block in getattr(base.transformer, blocks, ()):
            block.compile(backend=backend)


def lora_layers(base: Base) -> list[tuple[str, Any]]:
    """Give (name, PEFT LoraLayer) of every layer that carries an adapter."""
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in base.transformer.named_modules() if isinstance(module, LoraLayer)]


def trainable_parameters(base: Base) -> list[nn.Parameter]:
    """Give the parameters of the policy adapter, in a fixed order."""
    return [parameter for parameter in base.transformer.parameters() if parameter.requires_grad]


def keep_reference(base: Base) -> None:
    """Freeze a copy of the present adapter as the reference of the KL term; `reference_pass` uses it from now on.

    For training that starts from an adapter. Without it the reference is the base itself.
    """
    transformer: Any = base.transformer  # diffusers adds the adapter methods
    # PEFT marks the newest adapter as trainable and active: put both back afterwards.
    transformer.add_adapter(transformer.peft_config[POLICY], adapter_name=REFERENCE)
    _make_masters(base)
    with torch.no_grad():
        for _, layer in lora_layers(base):
            for matrices in (layer.lora_A, layer.lora_B):
                matrices[REFERENCE].weight.data = matrices[POLICY].weight.detach().clone()
    transformer.set_adapter(POLICY)
    for _, layer in lora_layers(base):
        for matrices in (layer.lora_A, layer.lora_B):
            matrices[REFERENCE].weight.requires_grad_(False)


@contextmanager
def reference_pass(base: Base) -> Iterator[None]:
    """Compute with the reference: the kept start adapter if there is one, else the base without any adapter.

    Numbers equal the base's exactly. Which parameters are trainable is left as it was.
    """
    layers = [layer for _, layer in lora_layers(base)]
    trainable = [parameter for parameter in base.transformer.parameters() if parameter.requires_grad]
    kept = REFERENCE in getattr(base.transformer, "peft_config", {})
    for layer in layers:
        if kept:
            layer.set_adapter(REFERENCE)
        else:
            layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            if kept:
                layer.set_adapter(POLICY)
            else:
                layer.enable_adapters(True)
            for matrices in (layer.lora_A, layer.lora_B):
                for matrix in matrices.values():
                    matrix.weight.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def merged(base: Base) -> Iterator[None]:
    """Fold the policy adapter into the weights for as long as the block runs: no adapter arithmetic in each forward.

    The weights come back from a copy, bit for bit: adding and subtracting in bf16 would drift by up to 4e-3. Merged and
    unmerged velocities differ by rounding. In bf16 that shows in log probabilities, so a rollout that is replayed must
    not be merged there. In float32 it may be, and the tiny recipe does so: on both tiny bases, with random rank-16
    adapters, merging shifted log p by at most 3e-8 (48 sampled steps), far below the on-policy check's 1e-5.
    """
    copies: list[tuple[Any, torch.Tensor]] = []
    layers = [layer for _, layer in lora_layers(base)]
    try:
        with torch.no_grad():
            for layer in layers:
                inner = layer.get_base_layer()
                copies.append((inner, inner.weight.data))
                delta = layer.get_delta_weight(POLICY)
                inner.weight.data = (inner.weight.data.float() + delta.float()).to(inner.weight.dtype)
        with _adapters_off(base, layers):
            yield
    finally:
        for inner, weight in copies:
            inner.weight.data = weight


@contextmanager
def _adapters_off(base: Base, layers: Sequence[Any]) -> Iterator[None]:
    trainable = trainable_parameters(base)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter in base.transformer.parameters():
            parameter.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)


def adapter_state(base: Base) -> dict[str, torch.Tensor]:
    """Give the policy adapter's weights by diffusers name, float32 on the CPU."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(base.transformer, adapter_name=POLICY)
    return {key: value.detach().to("cpu", torch.float32).contiguous() for key, value in state.items()}


def save_adapter(base: Base, folder: Path) -> Path:
    """Write the policy adapter in diffusers' format with its metadata (rank, alpha), without which alpha is lost.

    Equal adapters give equal bytes. Raises NotFiniteError before anything is written.
    """
    from diffusers import WanPipeline

    state = adapter_state(base)
    require_finite_weights(state, "the adapter")
    folder.mkdir(parents=True, exist_ok=True)
    transformer: Any = base.transformer
    config = transformer.peft_config[POLICY].to_dict()
    metadata = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    WanPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=state,
        transformer_lora_adapter_metadata=metadata,
        weight_name=WEIGHTS_FILE,
    )
    sort_header(folder / WEIGHTS_FILE, {ORDER_KEY: order_of(base)} if base.entry.family == "vace" else None)
    return folder / WEIGHTS_FILE


def order_of(base: Base) -> str:
    """Give the order in which a base puts references, as the metadata of an adapter says it."""
    return "reversed" if base.reversed_references else "forward"


def load_adapter(base: Base, source: Path, *, trainable: bool = False) -> list[nn.Parameter]:
    """Load an adapter file or folder onto a base without one, and check that every number of it is in place.

    Raises ArtifactError: file missing, damaged or not finite, layers that the base lacks, factors without their other half.
    Returns what is trainable.
    """
    path = source / WEIGHTS_FILE if source.is_dir() else source
    if not path.is_file():
        raise ArtifactError(
            f"no adapter at {source}: {path.name} is missing", fix="give the folder of a policy artifact"
        )
    if lora_layers(base):
        raise UsageError(f"base {base.name} already carries an adapter", fix="load the base again for another adapter")
    state = read_finite(path)
    factors = (".lora_A.weight", ".lora_B.weight")
    unlike = [key for key in state if not (key.startswith("transformer.") and key.endswith(factors))]
    if unlike:
        raise ArtifactError(
            f"{path} is not in diffusers' format: {', '.join(unlike[:3])}", fix="export it again, or convert its keys"
        )
    modules = dict(base.transformer.named_modules())
    strange = {key.removeprefix("transformer.").split(".lora_")[0] for key in state} - set(modules)
    if strange:
        raise ArtifactError(
            f"{path} is for another base: no layer {', '.join(sorted(strange)[:3])} in {base.name}",
            fix="use the base that the policy was trained on",
        )
    _tell_another_order(base, path)
    with reading_weights(path):
        transformer: Any = base.transformer
        transformer.load_lora_adapter(str(path.parent), weight_name=path.name, adapter_name=POLICY)
    _make_masters(base)
    taken = set()
    for name, layer in lora_layers(base):
        for side, matrices in (("A", layer.lora_A), ("B", layer.lora_B)):
            # The library has rounded them to the base's dtype: take them from the file again.
            key, master = f"transformer.{name}.lora_{side}.weight", matrices[POLICY].weight
            taken.add(key)
            if key in state:
                master.data = state[key].to(master.device, torch.float32)
    if alone := taken ^ set(state):  # the library passes over what does not fit, without a word
        raise ArtifactError(
            f"the adapter at {path} does not fit its layers: {', '.join(sorted(alone)[:3])} ({len(alone)} in all)",
            fix="each layer needs lora_A and lora_B; export it again",
        )
    base.transformer.requires_grad_(False)
    if trainable:
        recompute_activations(base)
        for _, layer in lora_layers(base):
            for matrices in (layer.lora_A, layer.lora_B):
                matrices[POLICY].weight.requires_grad_(True)
    return trainable_parameters(base)


def _tell_another_order(base: Base, path: Path) -> None:
    """Warn when an adapter was trained with references in another order than this base puts them."""
    from safetensors import safe_open

    with reading_weights(path), safe_open(path, "pt") as file:
        order = (file.metadata() or {}).get(ORDER_KEY)
    if order is not None and order != order_of(base):
        log.warning(
            "%s was trained with references in %s order, %s puts them in %s order: people may be swapped "
            "(sampler setting reversed_references)",
            path,
            order,
            base.name,
            order_of(base),
        )

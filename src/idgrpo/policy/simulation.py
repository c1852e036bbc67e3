"""Peak memory of an update, found by running its own code on fake tensors: shapes and dtypes, no numbers, no weights, no GPU.

Blocks of a transformer are alike, so two shallow ones are run and the line through them gives the depth that is asked for;
`tests/bench/test_simulation.py` holds it against the whole depth and against a measured run.
"""

import json
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from inspect import Parameter, signature
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from idgrpo.bases.architectures import CLASS_OF_FAMILY
from idgrpo.bases.contract import BaseEntry, Condition, VideoSize
from idgrpo.bases.cost import GIB
from idgrpo.bases.load import family_class
from idgrpo.bases.lora import attach, reference_pass
from idgrpo.bases.tuned import open_all
from idgrpo.bases.wan import WanBase
from idgrpo.flow.laws import stochastic_step
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.cost import samples_per_update
from idgrpo.policy.loss import load_loss
from idgrpo.policy.replay import Pairs, Replay, ReplayFigures
from idgrpo.policy.train import prepare_blocks
from idgrpo.policy.trainer import guidance_of
from idgrpo.policy.weights import trained_weights

SHALLOW = (2, 4)
"""Periods of blocks (VACE: up to the next control block) of the two transformers that are run; no more where there are no more."""


DECIDING = {"method", "train", "lora", "kl", "loss", "engine", "rollout", "group", "clips"}
"""Settings that memory depends on."""


@dataclass(frozen=True)
class Peaks:
    """GiB of live tensors of one rank: what lies there all the time, and what each part adds at its highest.

    resident: weights of the base and of what is trained. rollout: one denoising step of a batch; replay: forward and backward of a
    micro-batch, gradients included; step: the optimizer with its moments and gradients.
    """

    resident: float
    rollout: float
    replay: float
    step: float

    def line(self, other: "Peaks", share: float) -> "Peaks":
        """Give the point on the line from this one to another, at `share` (1: the other)."""
        mine, theirs = asdict(self), asdict(other)
        return Peaks(**{name: mine[name] + share * (theirs[name] - mine[name]) for name in mine})


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are alive; `peak` is the most there were since it was set."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, tuple[int, weakref.ref[Any]]] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed; one that is known is not counted again."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = (storage.nbytes(), weakref.ref(storage, lambda _: self._forget(key)))
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self.now -= self._alive.pop(key)[0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result

    def above(self, action: Callable[[], object], floor: int) -> int:
        """Run something and give its peak above `floor` bytes."""
        self.peak = self.now
        action()
        return self.peak - floor


def simulated_peaks(
    entry: BaseEntry,
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    config: PolicyConfig,
    size: VideoSize,
    num_references: int,
) -> Peaks:
    """Simulate the parts of an update on one rank without ZeRO; transformer, vae: their config.json.

    Takes some seconds; the same settings are simulated once a process.
    """
    told = config.model_dump_json(include=DECIDING)
    return _simulated(entry, json.dumps([dict(transformer), dict(vae)]), told, size, num_references)


@lru_cache(maxsize=256)
def _simulated(entry: BaseEntry, configs: str, settings: str, size: VideoSize, num_references: int) -> Peaks:
    transformer, vae = json.loads(configs)
    config = PolicyConfig.model_validate_json(settings)
    later = [place for place in transformer.get("vace_layers") or () if place]
    period = later[0] if later else 1
    depth = transformer["num_layers"] / period
    if depth <= SHALLOW[1]:
        return at_depth(entry, transformer, vae, config, size, num_references)
    low, high = (
        at_depth(entry, _shallow(transformer, count, period), vae, config, size, num_references) for count in SHALLOW
    )
    return low.line(high, (depth - SHALLOW[0]) / (SHALLOW[1] - SHALLOW[0]))


def _shallow(transformer: dict[str, Any], count: int, period: int) -> dict[str, Any]:
    layers: dict[str, Any] = {"num_layers": count * period}
    if transformer.get("vace_layers"):
        layers["vace_layers"] = tuple(range(0, count * period, period))
    return transformer | layers


def at_depth(
    entry: BaseEntry,
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    config: PolicyConfig,
    size: VideoSize,
    num_references: int,
) -> Peaks:
    """Run the parts of an update on fake tensors, with all blocks that `transformer` has."""
    base = _empty_base(entry, transformer, vae, config)
    guidance, rows = guidance_of(entry, config), min(config.rollout.batch_size, samples_per_update(config))
    reference = (lambda: reference_pass(base)) if config.train == "lora" else nullcontext
    replay = Replay(base, _plain_step, guidance, config.loss, config.kl, load_loss(config.loss.name), reference)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _fill(base.transformer)
        condition = _condition(base, size, num_references)
        optimizer = torch.optim.AdamW(trained_weights(base.transformer).values())
        live = LiveBytes()
        for tensor in (*base.transformer.parameters(), *base.transformer.buffers()):
            live.add(tensor)
        resident = live.now

        def roll_out() -> None:
            batch = base.collate([condition] * rows)
            state = torch.empty(rows, *base.latent_shape(size, num_references))
            with torch.no_grad():
                base.velocity(state, torch.empty(rows, dtype=torch.float64), batch, guidance)

        def replay_once() -> None:
            pairs = _pairs(base, condition, config.loss.micro_batch, size)
            replay.loss_of(pairs, ReplayFigures()).backward()

        with live:
            rollout = live.above(roll_out, resident) if config.method == "grpo" else 0
            replayed = live.above(replay_once, resident)
            stepped = live.above(optimizer.step, resident)
    return Peaks(*(value / GIB for value in (resident, rollout, replayed, stepped)))


def _plain_step(x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
    return stochastic_step("wan", x, velocity, sigma, sigma_next, sigma_max=0.99)


def _empty_base(
    entry: BaseEntry, transformer: Mapping[str, Any], vae: Mapping[str, Any], config: PolicyConfig
) -> WanBase:
    """Make a base without numbers: the transformer on the meta device, in the dtypes of `load_base`, what is trained attached."""
    import diffusers
    from diffusers.configuration_utils import FrozenDict

    dtype = torch.float32 if entry.architecture == "tiny" or config.train == "full" else torch.bfloat16
    known = signature(diffusers.AutoencoderKLWan.__init__).parameters
    published = {name: value.default for name, value in known.items() if value.default is not Parameter.empty}
    with torch.device("meta"):
        model = getattr(diffusers, CLASS_OF_FAMILY[entry.family])(**transformer)
    kept = set(model._keep_in_fp32_modules or ())
    for name, weight in model.requires_grad_(False).named_parameters():
        if not kept & set(name.split(".")):
            weight.data = weight.data.to(dtype)
    decoder = SimpleNamespace(config=FrozenDict(published | dict(vae)), use_tiling=False)
    base = family_class(entry.family)(
        entry, model.eval(), decoder, cast(Any, None), device=torch.device("cpu"), dtype=dtype
    )
    if config.train == "full":
        open_all(base)
    else:
        attach(base, rank=config.lora.rank, alpha=config.lora.alpha, targets=config.lora.targets, seed=config.seed)
    prepare_blocks(base, config.engine.model_copy(update={"compile": False}))
    return base


def _fill(module: nn.Module) -> None:
    """Put a fake tensor on the CPU in place of each weight and buffer: attention there keeps what it keeps on a GPU."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(
                    torch.empty_like(weight, device="cpu"), requires_grad=weight.requires_grad
                )
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty_like(buffer, device="cpu")


def _condition(base: WanBase, size: VideoSize, num_references: int) -> Condition:
    """Give an empty case: a prompt of full length, and photos, as latents."""
    frames, height, width = base.geometry.latent_size(size)
    text = torch.empty(base.entry.text_length, base.transformer.config.text_dim)
    return Condition(
        text=text,
        negative=text,
        references=torch.empty(base.geometry.z, num_references, height, width),
        background=torch.empty(base.geometry.z, frames, height, width),
        size=size,
    )


def _pairs(base: WanBase, condition: Condition, count: int, size: VideoSize) -> Pairs:
    """Give an empty micro-batch of `count` stored steps."""
    state = (count, *base.latent_shape(size, condition.num_references))
    return Pairs(
        x=torch.empty(state),
        x_next=torch.empty(state),
        old_mean=torch.empty(state),
        old_log_prob=torch.empty(count),
        sigma=torch.empty(count, dtype=torch.float64),
        sigma_next=torch.empty(count, dtype=torch.float64),
        batch=base.collate([condition] * count),
        advantage=torch.empty(count),
        weight=torch.empty(count),
        steps=[0] * count,
        with_kl=list(range(count)),
        kl_share=1.0,
    )

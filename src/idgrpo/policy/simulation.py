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
    micro-batch, beside the gradients; step: the optimizer's moments and what it works with.
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

    def at(layers: Mapping[str, Any]) -> Peaks:
        return parts_of(entry, layers, vae, config, size, num_references).peaks()

    if depth <= SHALLOW[1]:
        return at(transformer)
    low, high = (at(shallow(transformer, count, period)) for count in SHALLOW)
    return low.line(high, (depth - SHALLOW[0]) / (SHALLOW[1] - SHALLOW[0]))


def shallow(transformer: Mapping[str, Any], count: int, period: int) -> dict[str, Any]:
    """Give the configuration with `count` periods of blocks."""
    layers: dict[str, Any] = {"num_layers": count * period}
    if transformer.get("vace_layers"):
        layers["vace_layers"] = tuple(range(0, count * period, period))
    return {**transformer, **layers}


@dataclass(frozen=True)
class UpdateParts:
    """What an update does, to be run one by one on a base without numbers; `fill` gives its transformer tensors first."""

    base: WanBase
    config: PolicyConfig
    size: VideoSize
    num_references: int

    def fill(self, make: Callable[..., Tensor]) -> None:
        """Put a tensor on the CPU in place of each weight and buffer: attention there keeps what it keeps on a GPU."""
        for part in self.base.transformer.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    filled = nn.Parameter(make(weight, device="cpu"), requires_grad=weight.requires_grad)
                    part._parameters[name] = filled
            for name, buffer in part._buffers.items():
                if buffer is not None and buffer.is_meta:
                    part._buffers[name] = make(buffer, device="cpu")

    def peaks(self) -> Peaks:
        """Run all parts on fake tensors, with all blocks that the transformer has."""
        transformer, is_grpo = self.base.transformer, self.config.method == "grpo"
        with FakeTensorMode(allow_non_fake_inputs=True):
            live = LiveBytes()
            self.fill(torch.empty_like)
            for tensor in (*transformer.parameters(), *transformer.buffers()):
                live.add(tensor)
            resident, weights = live.now, trained_weights(transformer).values()
            with live:
                rollout = live.above(self.roll_out, resident) if is_grpo else 0
                for weight in weights:
                    weight.grad = torch.empty_like(weight)  # as after the first micro-batch
                gradients = live.now
                replayed = live.above(self.replay, gradients)
                stepped = live.above(torch.optim.AdamW(weights).step, gradients)
        return Peaks(*(value / GIB for value in (resident, rollout, replayed, stepped)))

    def roll_out(self) -> None:
        """Make one denoising step of a batch of the rollout."""
        base, rows = self.base, min(self.config.rollout.batch_size, samples_per_update(self.config))
        batch = base.collate([self._condition()] * rows)
        state, sigma = torch.zeros(rows, *base.latent_shape(self.size, self.num_references)), _levels(rows)
        with torch.no_grad():
            base.velocity(state, sigma, batch, guidance_of(base.entry, self.config))

    def replay(self) -> None:
        """Replay a micro-batch, with the reference and the backward."""
        base, config = self.base, self.config
        reference = (lambda: reference_pass(base)) if config.train == "lora" else nullcontext
        guidance, loss = guidance_of(base.entry, config), load_loss(config.loss.name)
        replay = Replay(base, _plain_step, guidance, config.loss, config.kl, loss, reference)
        replay.loss_of(self._pairs(config.loss.micro_batch), ReplayFigures()).backward()

    def _condition(self) -> Condition:
        """Give an empty case: a prompt of full length, and photos, as latents."""
        geometry = self.base.geometry
        frames, height, width = geometry.latent_size(self.size)
        text = torch.zeros(self.base.entry.text_length, self.base.transformer.config.text_dim)
        return Condition(
            text=text,
            negative=text,
            references=torch.zeros(geometry.z, self.num_references, height, width),
            background=torch.zeros(geometry.z, frames, height, width),
            size=self.size,
        )

    def _pairs(self, count: int) -> Pairs:
        """Give an empty micro-batch of `count` stored steps."""
        state = torch.zeros(count, *self.base.latent_shape(self.size, self.num_references))
        return Pairs(
            x=state,
            x_next=state.clone(),
            old_mean=state.clone(),
            old_log_prob=torch.zeros(count),
            sigma=_levels(count),
            sigma_next=_levels(count) / 2,
            batch=self.base.collate([self._condition()] * count),
            advantage=torch.ones(count),
            weight=torch.ones(count),
            steps=[0] * count,
            with_kl=list(range(count)),
            kl_share=1.0,
        )


def _levels(count: int) -> Tensor:
    return torch.full((count,), 0.5, dtype=torch.float64)


def _plain_step(x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
    return stochastic_step("wan", x, velocity, sigma, sigma_next, sigma_max=0.99)


def parts_of(
    entry: BaseEntry,
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    config: PolicyConfig,
    size: VideoSize,
    num_references: int,
) -> UpdateParts:
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
    return UpdateParts(base, config, size, num_references)

"""What turns losses into a step: plain AdamW on one or several ranks, or DeepSpeed ZeRO 0 to 3."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from idgrpo.run.distributed import World

BUCKET_SIZE = 2**26
"""Numbers of gradient that are summed over ranks at once: one buffer of all would be as large as all gradients (8 GiB with
`--recipe full`)."""


def buckets(tensors: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Cut tensors, in order, into lists of at most `size` numbers together; a larger one stands alone."""
    held: list[Tensor] = []
    for tensor in tensors:
        if held and sum(other.numel() for other in held) + tensor.numel() > size:
            yield held
            held = []
        held.append(tensor)
    if held:
        yield held


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and the clip on the global gradient norm."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    max_grad_norm: float


@dataclass(frozen=True)
class StepReport:
    """Gradient before the clip; `applied` is False when it was not finite and the optimizer was not touched."""

    grad_norm: float
    grad_rms: float
    applied: bool


class Engine(Protocol):
    """Losses handed to `backward` are shares of one global sum over all micro-batches of all ranks."""

    world: World
    needs_equal_backwards: bool
    """Whether all ranks must call `backward` equally often between steps."""
    restores_weights: bool
    """Whether `load` brings the weights back too."""

    def backward(self, loss: Tensor, is_last: bool) -> None: ...
    def step(self, lr: float) -> StepReport: ...
    def gathered(self) -> AbstractContextManager[None]: ...
    def whole(self) -> AbstractContextManager[None]: ...
    def prepare_save(self, scratch: Path) -> None: ...
    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...


class PlainEngine:
    """AdamW over the trained parameters; gradients are summed over ranks just before the step."""

    needs_equal_backwards = False  # gradients meet once, in `step`
    restores_weights = False

    def __init__(self, weights: dict[str, nn.Parameter], settings: OptimizerSettings, world: World):
        self.world = world
        self.parameters = list(weights.values())
        self.settings = settings
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add a share of the loss to the gradients of this rank."""
        loss.backward()

    def step(self, lr: float) -> StepReport:
        """Sum gradients over ranks, clip, step; leave everything as it is when they are not finite."""
        self._sum_gradients()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
        count = sum(parameter.numel() for parameter in self.parameters)
        report = StepReport(norm, norm / math.sqrt(count), math.isfinite(norm))
        if report.applied:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.settings.max_grad_norm, torch.tensor(norm))
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return report

    def _sum_gradients(self) -> None:
        """All-reduce in flat buffers of a bounded size: ranks without any pair contribute zeros and still take part."""
        if self.world.size == 1:
            return
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        for bucket in buckets(gradients, BUCKET_SIZE):
            flat = self.world.sum_(torch.cat([gradient.reshape(-1).float() for gradient in bucket]))
            for gradient, share in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(share.view_as(gradient))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Parameters are whole on every rank already."""
        yield

    whole = gathered

    def prepare_save(self, scratch: Path) -> None:
        """Called on all ranks before the main one saves: nothing to do, the state is the same everywhere."""

    def save(self, folder: Path) -> None:
        """Write the optimizer state; on the main rank."""
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")

    def load(self, folder: Path) -> None:
        """Restore the optimizer state exactly."""
        state = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(state)

"""Pair losses as pure functions of the score gap d = r_A - r_B; one value a pair, and the mean over valid pairs."""

import inspect
import math
from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from idgrpo.errors import UsageError
from idgrpo.reward import LOSSES

A, B, TIE = 0, 1, 2
INVALID = -100  # what transformers' Trainer leaves out when it counts the pairs of an update

PairLoss = Callable[..., Tensor]


def rao_kupper(gap: Tensor, label: Tensor, *, theta: float = 5.0) -> Tensor:
    """Return -log P(label) per pair of the Bradley-Terry model with ties of Rao and Kupper.

    P(A) = sig(d - ln theta), P(B) = sig(-d - ln theta), P(tie) = (theta^2 - 1) P(A) P(B); they sum to 1. A tie stays
    the most likely label until |d| > ln((theta^2 - 2) / theta).

    Args:
        gap: d, "pair", any float type.
        label: "pair" of A, B, TIE or INVALID (loss 0).
        theta: > 1; larger means more ties.

    Source: Rao and Kupper 1967, eq. 3; Identity-GRPO (arXiv 2510.14256) with theta = 5.
    """
    if theta <= 1:
        raise UsageError(f"theta={theta} leaves no room for ties: it must be above 1")
    log_a, log_b = logsigmoid(gap - math.log(theta)), logsigmoid(-gap - math.log(theta))
    return _pick(label, -log_a, -log_b, -(math.log(theta * theta - 1) + log_a + log_b))


def davidson(gap: Tensor, label: Tensor, *, nu: float = 1.0) -> Tensor:
    """Return -log P(label) per pair of Davidson's model: weights e^d/2, e^-d/2 and nu for A, B and a tie.

    P(tie) is proportional to nu sqrt(a_A a_B) with a = e^r. Source: Davidson 1970, eq. 1.2.
    """
    if nu <= 0:
        raise UsageError(f"nu={nu} gives ties no probability: it must be above 0")
    logits = torch.stack([gap / 2, -gap / 2, torch.full_like(gap, math.log(nu))], dim=-1)
    return _pick(label, *(-logits.log_softmax(-1)).unbind(-1))


def bradley_terry(gap: Tensor, label: Tensor) -> Tensor:
    """Return -log sig(d) (A) or -log sig(-d) (B) per pair; ties say nothing here and count as invalid (loss 0)."""
    return _pick(label, -logsigmoid(gap), -logsigmoid(-gap), torch.zeros_like(gap))


def margin(gap: Tensor, label: Tensor, *, margin: float = 1.0) -> Tensor:
    """Return the hinge loss per pair: winners lead by `margin`, ties stay within it.

    max(0, m - d) for A, max(0, m + d) for B, max(0, |d| - m) for a tie.
    """
    return _pick(label, relu(margin - gap), relu(margin + gap), relu(gap.abs() - margin))


def _pick(label: Tensor, a: Tensor, b: Tensor, tie: Tensor) -> Tensor:
    zero = torch.zeros_like(a)
    return torch.where(label == A, a, torch.where(label == B, b, torch.where(label == TIE, tie, zero)))


def mean_over_valid(values: Tensor, label: Tensor, num_valid: Tensor | int | None = None) -> Tensor:
    """Divide the summed pair losses by the number of valid pairs of the whole update (`num_valid`) or of this batch."""
    count = (label != INVALID).sum() if num_valid is None else torch.as_tensor(num_valid, device=values.device)
    return values.sum() / count.clamp(min=1).to(values.dtype)


def load_loss(name: str) -> PairLoss:
    """Import a registered loss by name."""
    if name not in LOSSES:
        raise UsageError(f"unknown loss {name!r} (known: {', '.join(LOSSES)})")
    module, function = LOSSES[name].split(":")
    return getattr(import_module(module), function)


def settings_of(loss: PairLoss) -> tuple[str, ...]:
    """Name the keyword arguments of a loss."""
    return tuple(p.name for p in inspect.signature(loss).parameters.values() if p.kind is p.KEYWORD_ONLY)


def takes_ties(name: str) -> bool:
    """Tell whether a tie carries information for this loss: whether it minds an enormous gap there."""
    return bool(load_loss(name)(torch.tensor([1e4]), torch.tensor([TIE])) > 0)

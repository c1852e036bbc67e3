"""Policy losses of one stored step, as small functions in a registry (`idgrpo.policy.LOSSES`)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from idgrpo.plugins import load
from idgrpo.policy import LOSSES


@dataclass(frozen=True)
class LossInputs:
    """What a loss may look at, all of shape [pair]; a pair is (stored step, sample)."""

    log_prob: Tensor  # mean over elements, carries the gradient
    log_prob_old: Tensor  # from the rollout
    advantage: Tensor
    shift_kl: Tensor  # mean (mu - mu_old)^2 / (2 std^2), carries the gradient
    std: Tensor  # std of the step, sqrt(-dt) included
    clip: float
    kl_limit: float


@dataclass(frozen=True)
class LossTerms:
    """Loss per pair and, for the metrics, what was cut at either side."""

    loss: Tensor
    ratio: Tensor
    clipped_high: Tensor
    clipped_low: Tensor


def _clipped(ratio: Tensor, advantage: Tensor, clip: float) -> LossTerms:
    bounded = ratio.clamp(1 - clip, 1 + clip)
    loss = torch.maximum(-advantage * ratio, -advantage * bounded)
    high = (advantage > 0) & (ratio > 1 + clip)
    low = (advantage < 0) & (ratio < 1 - clip)
    return LossTerms(loss, ratio.detach(), high, low)


def clip_loss(inputs: LossInputs) -> LossTerms:
    """Compute max(-A r, -A clamp(r, 1 - eps, 1 + eps)), r = exp(logp - logp_old) (PPO, arXiv 1707.06347)."""
    return _clipped(torch.exp(inputs.log_prob - inputs.log_prob_old), inputs.advantage, inputs.clip)


def ratio_norm_loss(inputs: LossInputs) -> LossTerms:
    """Clip the ratio r = exp(std (logp - logp_old + KL(old || new))) (RatioNorm of GRPO-Guard, arXiv 2510.22319).

    The log ratio has mean -KL and a spread that grows as 1/std; adding KL and multiplying by std makes one clip mean the
    same at every noise level, and scales gradients of low-noise steps down by the same factor.
    """
    log_ratio = (inputs.log_prob - inputs.log_prob_old + inputs.shift_kl) * inputs.std
    return _clipped(torch.exp(log_ratio), inputs.advantage, inputs.clip)


def kl_mask_loss(inputs: LossInputs) -> LossTerms:
    """Use -A r without a clip, but stop pairs whose exact KL from the old policy passes a limit and still grows.

    Flow-DPPO's mask. Both policies are Gaussians of equal std, so the divergence is exact where the ratio is one noisy sample of it.
    """
    ratio = torch.exp(inputs.log_prob - inputs.log_prob_old)
    far = inputs.shift_kl.detach() > inputs.kl_limit
    high = far & (inputs.advantage > 0) & (ratio.detach() > 1)
    low = far & (inputs.advantage < 0) & (ratio.detach() < 1)
    loss = torch.where(high | low, 0.0, -inputs.advantage * ratio)
    return LossTerms(loss, ratio.detach(), high, low)


def load_loss(name: str) -> Callable[[LossInputs], LossTerms]:
    """Import a loss of the registry by name."""
    return load(LOSSES[name], "the policy loss")

"""Policy losses of one stored step, as small functions in a registry (`idgrpo.policy.LOSSES`), and the loss of a preference."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from idgrpo.plugins import load
from idgrpo.policy import LOSSES
from idgrpo.policy.config import DpoConfig
from idgrpo.policy.forward import matching_error
from idgrpo.reward.losses import A, B
from idgrpo.reward.losses import load_loss as load_pair_loss


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
    beta: float = 1.0  # of DiffusionNFT
    advantage_clamp: float = 5.0  # advantages lie within plus and minus this


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


def nft_loss(inputs: LossInputs) -> LossTerms:
    """Compute c/beta [r |v+ - u|^2 + (1 - r) |v- - u|^2] / 2, v+- = v_old +- beta (v - v_old) (DiffusionNFT, arXiv 2509.16117).

    u = noise - x0, r = 1/2 + A / (2 c) in [0, 1], c the advantage's clamp. Of pairs of forward-process credit only, whose
    density holds |v - u|^2 and whose KL from the old policy is |v - v_old|^2 / 2; with e = v_old - u, d = v - v_old

        |e + beta d|^2 = (1 - beta) |e|^2 + beta |e + d|^2 - beta (1 - beta) |d|^2

    and the same with -beta. At v = v_old the gradient is that of A |v - u|^2 / 2, which is AWM's; away from it the pull
    ends at d = A (u - v_old) / (beta c), where `clip` ends it at a ratio. The authors' weight 1 / mean |x0 error| is left out.
    """
    beta, limit = inputs.beta, inputs.advantage_clamp
    new, old = (matching_error(density, inputs.std) / 2 for density in (inputs.log_prob, inputs.log_prob_old))
    good = (1 - beta) * old + beta * new - beta * (1 - beta) * inputs.shift_kl
    bad = (1 + beta) * old - beta * new + beta * (1 + beta) * inputs.shift_kl
    share = (0.5 + inputs.advantage / (2 * limit)).clamp(0, 1)
    loss = limit / beta * (share * good + (1 - share) * bad)
    ratio = torch.exp(inputs.log_prob - inputs.log_prob_old).detach()
    nothing = torch.zeros_like(ratio, dtype=torch.bool)
    return LossTerms(loss, ratio, nothing, nothing)


@dataclass(frozen=True)
class PreferenceTerms:
    """Of each preference: the loss, the lead of the better clip's score (NaN where neither is), and what each side gained."""

    loss: Tensor
    lead: Tensor
    better: Tensor  # log p - log p_ref of the better clip, of a tie of clip a
    worse: Tensor


def dpo_terms(gained: Tensor, labels: Tensor, setting: DpoConfig) -> PreferenceTerms:
    """Compute the pair loss of the gap beta (gained_a - gained_b).

    gained: log density over that of the reference, [2 preference], clip a and clip b in neighbouring places, carries the
    gradient; labels [preference], A, B or TIE.
    """
    sides = gained.unflatten(0, (-1, 2))
    gap = setting.beta * (sides[:, 0] - sides[:, 1])
    loss = load_pair_loss(setting.loss)(gap, labels, **setting.arguments())
    own, swapped = sides.detach(), labels == B
    lead = torch.where(labels == A, gap, torch.where(swapped, -gap, torch.nan)).detach()
    better = torch.where(swapped, own[:, 1], own[:, 0])
    return PreferenceTerms(loss, lead, better, torch.where(swapped, own[:, 0], own[:, 1]))


def load_loss(name: str) -> Callable[[LossInputs], LossTerms]:
    """Import a loss of the registry by name."""
    return load(LOSSES[name], "the policy loss")

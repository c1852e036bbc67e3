"""Rewards of a group -> advantages: pure functions on [group, sample], NaN marks a failed reward.

What the reward must not be earned by (`idgrpo.policy.CONTROLS`, measures of a clip) leaves the advantages here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from idgrpo.plugins import load
from idgrpo.policy import CONTROLS

ZERO_VARIANCE = 1e-6  # spread below this share of the reward's size is rounding, not preference


@dataclass(frozen=True)
class Advantages:
    """Advantages [group, sample] (0 where not kept) and what was left out."""

    values: Tensor
    kept: Tensor  # bool [group, sample]: trained on
    zero_variance: Tensor  # bool [group]
    too_small: Tensor  # bool [group]: fewer than two valid rewards
    clamped: Tensor  # bool [group, sample]
    explained_share: float = 0.0  # of their squared size that controls explained and that was taken out


def masked_moments(rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give (valid mask, mean, population std) over the last axis, ignoring NaN; empty rows give 0."""
    valid = rewards.isfinite()
    count = valid.sum(-1, keepdim=True).clamp(min=1)
    filled = torch.where(valid, rewards, 0.0)
    mean = filled.sum(-1, keepdim=True) / count
    variance = torch.where(valid, (filled - mean) ** 2, 0.0).sum(-1, keepdim=True) / count
    return valid, mean, variance.sqrt()


def group_advantages(
    rewards: Tensor,
    *,
    scale: Literal["group", "batch"] = "group",
    std_floor: float = 0.0,
    eps: float = 1e-6,
    clamp: float = 5.0,
) -> Advantages:
    """Compute A = clamp((r - mean) / (max(std, floor) + eps), +-clamp) in each group (DeepSeekMath, arXiv 2402.03300).

    rewards: float [group, sample]. Failed samples are masked; groups with fewer than two valid rewards or without any
    spread are dropped whole. `batch` divides by the std of all centred rewards of the update instead of the group's own.
    """
    rewards = rewards.double()
    valid, mean, std = masked_moments(rewards)
    too_small = valid.sum(-1) < 2
    zero_variance = ~too_small & (std[:, 0] <= ZERO_VARIANCE * mean[:, 0].abs().clamp(min=1.0))
    kept = valid & ~(too_small | zero_variance)[:, None]
    centred = torch.where(kept, rewards - mean, 0.0)
    if scale == "batch":
        std = (centred.square().sum() / kept.sum().clamp(min=1)).sqrt()
    raw = centred / (std.clamp(min=std_floor) + eps)
    values = torch.where(kept, raw.clamp(-clamp, clamp), 0.0)
    return Advantages(values.float(), kept, zero_variance, too_small, kept & (raw.abs() > clamp))


def win_rates(rewards: Tensor) -> Tensor:
    """Replace each reward by its mean Bradley-Terry win probability against the rest of its group.

    Pref-GRPO, arXiv 2508.20751. rewards [group, sample] -> [group, sample] in 0..1; bounded, so an outlier cannot own a group. NaN stays NaN.
    """
    valid = rewards.isfinite()
    probability = torch.sigmoid(rewards[:, :, None] - rewards[:, None, :])
    pairs = valid[:, :, None] & valid[:, None, :] & ~torch.eye(rewards.shape[1], dtype=torch.bool)
    total = torch.where(pairs, probability, 0.0).sum(-1)
    return torch.where(valid, total / pairs.sum(-1).clamp(min=1), torch.nan)


def combine_rewards(
    rewards: dict[str, Tensor], weights: dict[str, float], normalise: Literal["none", "group"] = "none"
) -> Tensor:
    """Add several rewards [group, sample] with weights (default 1), each z-scored in its group first if asked.

    The normalisation is GDPO's (arXiv 2601.05242). A sample is valid only when all its rewards are.
    """
    total: Tensor | None = None
    for name, values in rewards.items():
        if normalise == "group":
            _, mean, std = masked_moments(values)
            values = torch.where(std > ZERO_VARIANCE, (values - mean) / std.clamp(min=ZERO_VARIANCE), values * 0.0)
        term = weights.get(name, 1.0) * values
        total = term if total is None else total + term
    assert total is not None, "at least one reward"
    return total


def load_control(name: str) -> Callable[[Tensor], float]:
    """Import a control of the registry by name: (clip uint8 [frame, 3, height, width]) -> number."""
    return load(CONTROLS[name], "the control")


class Drift:
    """How far the policy's clips have moved from the base's of the same cases and noise: log ratio by control, smoothed.

    d <- DECAY d + (1 - DECAY) mean log(control of the policy's clip / control of the base's). Paired, because the clips of one
    update differ more by their cases than by the policy.
    """

    DECAY = 0.8

    def __init__(self, names: Sequence[str]):
        self.values = dict.fromkeys(names, 0.0)

    def update(self, log_ratios: Mapping[str, Tensor]) -> None:
        """Take in the log ratios [clip] of an update, by control; without a finite one a drift stays as it is."""
        for name, ratios in log_ratios.items():
            known = ratios[ratios.isfinite()]
            if len(known):
                self.values[name] = self.DECAY * self.values[name] + (1 - self.DECAY) * float(known.mean())


def without(advantages: Advantages, controls: Sequence[Tensor], pulls: Sequence[float] = ()) -> Advantages:
    """Take out of the advantages what controls [group, sample] explain, and pull each control down by a share of its own spread.

    A <- A - sum_k (b_k + p_k) z_k with b the least-squares fit of A over all kept samples, z a control standardised in each
    group, p its pull (negative: up; none given: 0). b is what length control is to language models (arXiv 2404.04475), for what
    a video judge is taken in by; p brings back what drifted all the same.
    """
    kept, values = advantages.kept, advantages.values.double()
    columns = []
    for control in controls:
        _, mean, std = masked_moments(torch.where(kept, control.double(), torch.nan))
        columns.append(torch.where(kept, (control - mean) / std.clamp(min=ZERO_VARIANCE), 0.0).flatten())
    z = torch.stack(columns, -1)
    explained = (z @ (torch.linalg.pinv(z) @ values.flatten())).view_as(values)
    share = explained.square().sum() / values.square().sum().clamp(min=ZERO_VARIANCE)
    pull = (z @ torch.tensor([*pulls] or [0.0] * len(controls), dtype=z.dtype)).view_as(values)
    return replace(advantages, values=(values - explained - pull).float(), explained_share=min(float(share), 1.0))

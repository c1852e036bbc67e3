"""Measures of a clip that the reward must not be earned by (`idgrpo.policy.CONTROLS`), and how they leave the advantages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module

import torch
from torch import Tensor

from idgrpo.policy import CONTROLS
from idgrpo.policy.advantage import ZERO_VARIANCE, Advantages, masked_moments


def load_control(name: str) -> Callable[[Tensor], float]:
    """Import a control of the registry by name: (clip uint8 [frame, 3, height, width]) -> number."""
    module, _, function = CONTROLS[name].partition(":")
    return getattr(import_module(module), function)


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

"""Measures of a clip that the reward must not be earned by (`idgrpo.policy.CONTROLS`), and how they leave the advantages."""

from collections.abc import Callable, Sequence
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


def without(advantages: Advantages, controls: Sequence[Tensor]) -> Advantages:
    """Take out of the advantages what controls [group, sample] explain.

    A <- A - sum_k b_k z_k with b the least-squares fit of A over all kept samples, z a control standardised in each group:
    what length control is to language models (arXiv 2404.04475), for what a video judge is taken in by.
    """
    kept, values = advantages.kept, advantages.values.double()
    columns = []
    for control in controls:
        _, mean, std = masked_moments(torch.where(kept, control.double(), torch.nan))
        columns.append(torch.where(kept, (control - mean) / std.clamp(min=ZERO_VARIANCE), 0.0).flatten())
    z = torch.stack(columns, -1)
    explained = (z @ (torch.linalg.pinv(z) @ values.flatten())).view_as(values)
    share = explained.square().sum() / values.square().sum().clamp(min=ZERO_VARIANCE)
    return replace(advantages, values=(values - explained).float(), explained_share=min(float(share), 1.0))

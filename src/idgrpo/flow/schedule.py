"""The noise schedule of the Wan family as our own table; no scheduler object holds hidden state."""

import math

import torch
from torch import Tensor

NUM_TRAIN_TIMESTEPS = 1000
"""Wan feeds sigma * 1000 to the transformer as its time."""


def wan_sigmas(num_steps: int, shift: float) -> Tensor:
    """Give the sigmas of a sampling run, from 1 down to 0.

    u = linspace(1, 1/1000, num_steps + 1) without its last value; sigma = shift u / (1 + (shift - 1) u); then 0.
    This is the table of Wan's own sampler. `FlowMatchEulerDiscreteScheduler(shift=...).set_timesteps` is not the
    same: it applies the shift twice.

    Returns float64 [num_steps + 1], strictly falling. Raises ValueError for num_steps < 1 or shift <= 0.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not (shift > 0 and math.isfinite(shift)):
        raise ValueError(f"shift must be a positive number, got {shift}")
    u = torch.linspace(1.0, 1.0 / NUM_TRAIN_TIMESTEPS, num_steps + 1, dtype=torch.float64)[:-1]
    sigmas = shift * u / (1.0 + (shift - 1.0) * u)
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def sigma_max_of(sigmas: Tensor) -> float:
    """Give the sigma that stands in for "almost pure noise" in the stochastic laws: the second of the table.

    With a single step there is no second sigma; then the first serves, and no law uses it (that step is the last).
    """
    return float(sigmas[1]) if len(sigmas) > 2 else float(sigmas[0])

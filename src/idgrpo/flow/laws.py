"""Stochastic steps for flow matching: one mean and one standard deviation per law, and the log density of a step.

All laws but `cps` add noise of level std_t to the probability-flow ODE and correct the mean by the score, so that the
marginals stay those of the ODE (Song et al. 2021, eq. 13, with the score of a rectified flow):

    score(x) = -(x + (1 - s) v) / s                  because x = (1 - s) x0 + s noise and v = noise - x0
    mean     = x + v dt + std_t^2 / 2 * (x + (1 - s) v) / s * dt,   dt = s' - s < 0
    x'       = mean + std_t sqrt(-dt) eps

A law is a function (sigma, sigma_next, sigma_max, eta) -> std_t; the default of its eta is the strength its authors publish.
Adding one: a function here and a line in `idgrpo.flow.LAWS`. The last step (sigma_next = 0) is the plain Euler step with std 0 under every law: noise added there
would stay in the video.
"""

import inspect
import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from idgrpo.errors import UsageError
from idgrpo.flow import LAWS
from idgrpo.plugins import load

Std = Callable[[Tensor, Tensor, float, float], Tensor]


def preserves_coefficients(law: Std) -> Std:
    """Mark a law whose level is final: the mean keeps the coefficients of x0 and noise instead of the score's correction."""
    law.__dict__["preserves_coefficients"] = True
    return law


def wan_std(sigma: Tensor, sigma_next: Tensor, sigma_max: float, eta: float = 1.0) -> Tensor:
    """Give eta * sigma_max * sigma: the `wan` law, std from 0 to the second sigma of the table."""
    return eta * sigma_max * sigma


def flow_std(sigma: Tensor, sigma_next: Tensor, sigma_max: float, eta: float = 0.7) -> Tensor:
    """Give eta * sqrt(s / (1 - s)): the law of Flow-GRPO (arXiv 2505.05470).

    s is capped at the second sigma of the table. Testing `s == 1` is not enough: schedules that start at 0.999999 miss
    it and reach a std of 148.
    """
    capped = sigma.clamp(max=sigma_max)
    if sigma_max >= 1 and _can_look(capped) and bool((capped >= 1).any()):
        raise ValueError(f"the `flow` law needs sigma_max < 1, got {sigma_max}")
    return eta * torch.sqrt(capped / (1.0 - capped))


def dance_std(sigma: Tensor, sigma_next: Tensor, sigma_max: float, eta: float = 0.3) -> Tensor:
    """Give the constant eta: the law of DanceGRPO (arXiv 2505.07818)."""
    return torch.full_like(sigma, eta)


@preserves_coefficients
def cps_std(sigma: Tensor, sigma_next: Tensor, sigma_max: float, eta: float = 0.7) -> Tensor:
    """Give sigma_next * sin(eta pi / 2): coefficients-preserving sampling (arXiv 2509.05952), in which std is final."""
    return sigma_next * math.sin(eta * math.pi / 2)


@cache
def law_named(name: str) -> Std:
    """Give the std function of a law. Raises UsageError that lists the known names."""
    if name not in LAWS:
        raise UsageError(f"unknown stochastic law '{name}'", fix=f"use one of {', '.join(LAWS)}")
    return load(LAWS[name], "the step law")


def default_eta(name: str) -> float:
    """Give the strength of a law that its authors publish. Raises UsageError for an unknown law."""
    return float(inspect.signature(law_named(name)).parameters["eta"].default)


def _can_look(*values: Tensor | float) -> bool:
    """Tell whether values can be looked at without waiting for a device; a simulation of memory has none."""
    return not any(isinstance(v, FakeTensor) or (isinstance(v, Tensor) and v.device.type != "cpu") for v in values)


def _column(value: Tensor | float, like: Tensor) -> Tensor:
    """Shape a number or a [batch] tensor so that it multiplies [batch, ...] in float32."""
    value = torch.as_tensor(value, dtype=torch.float32, device=like.device)
    return value.reshape(-1, *([1] * (like.ndim - 1))) if value.ndim else value


def euler_step(x: Tensor, v: Tensor, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
    """Move x along the velocity: x + v (sigma_next - sigma), in float32.

    x, v: [batch ...]; sigma, sigma_next: a number or [batch].
    """
    # The difference is taken in the precision that came in: float64 tables lose nothing to two float32 roundings.
    return x.float() + v.float() * _column(sigma_next - sigma, x)


def stochastic_step(
    law: str,
    x: Tensor,
    v: Tensor,
    sigma: Tensor | float,
    sigma_next: Tensor | float,
    *,
    sigma_max: float,
    eta: float | None = None,
    sigma_min: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Give mean and standard deviation of x' given x, in float32; x' = mean + std * eps with eps ~ N(0, I).

    x, v: [batch channel frame height width]. sigma, sigma_next: numbers or [batch]. sigma_max: the second sigma of the
    schedule (`schedule.sigma_max_of`). eta: strength; None takes the law's default. sigma_min: the level at sigma 0 that is
    added to the law's; with `wan`, std = eta (sigma_min + (sigma_max - sigma_min) sigma).

    std is [batch, 1, ...] (or scalar for scalar sigmas), holds sqrt(-dt) already, and is 0 where sigma_next is 0: that
    step is deterministic. Raises ValueError when sigma does not fall or lies outside (0, 1]; sigmas on a GPU are not looked
    at, for that would wait for it.
    """
    x, v = x.float(), v.float()
    dt = _column(sigma_next - sigma, x)
    s, s_next = _column(sigma, x), _column(sigma_next, x)
    wrong = (s <= 0) | (s > 1) | (dt >= 0) | (s_next < 0)
    if _can_look(wrong) and bool(wrong.any()):
        raise ValueError(f"sigmas must fall inside [0, 1], got {sigma} -> {sigma_next}")
    eta = default_eta(law) if eta is None else eta
    std_of = law_named(law)
    level = std_of(s, s_next, sigma_max, eta)
    last = s_next <= 0
    if getattr(std_of, "preserves_coefficients", False):
        x0, x1 = x - s * v, x + (1.0 - s) * v
        mean = (1.0 - s_next) * x0 + torch.sqrt((s_next**2 - level**2).clamp(min=0.0)) * x1
        std = level
    else:
        if sigma_min:
            level = level + eta * sigma_min * (1.0 - s)
        mean = x + v * dt + 0.5 * level**2 * dt * (x + (1.0 - s) * v) / s
        std = level * torch.sqrt(-dt)
    mean = torch.where(last, x + v * dt, mean)
    return mean, torch.where(last, torch.zeros_like(std), std)


def log_prob(x_next: Tensor, mean: Tensor, std: Tensor, mask: Tensor | None = None) -> Tensor:
    """Give the Gaussian log density of a step, averaged over its elements.

    -(x' - mean)^2 / (2 std^2) - log std - log(2 pi) / 2. mask [batch, 1, frame, 1, 1] (1 = counts) leaves reference
    slots out of the average. Returns float32 [batch]. Raises ValueError where std is 0 (on a GPU the result is NaN): a
    deterministic step has no density.
    """
    if _can_look(std) and bool((std <= 0).any()):
        raise ValueError("a deterministic step (std 0) has no log probability; leave the last step out")
    density = -((x_next.float() - mean) ** 2) / (2.0 * std**2) - torch.log(std) - 0.5 * math.log(2.0 * math.pi)
    density = density.expand_as(mean)
    if mask is None:
        return density.flatten(1).mean(dim=1)
    weights = mask.to(density.dtype).expand_as(density).flatten(1)
    return (density.flatten(1) * weights).sum(dim=1) / weights.sum(dim=1)

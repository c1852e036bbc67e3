"""The steps of a training rollout: sigmas, the stochastic law, and the window of steps that are trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from idgrpo.flow.laws import stochastic_step
from idgrpo.flow.schedule import sigma_max_of, wan_sigmas
from idgrpo.policy.config import RolloutConfig, WindowConfig
from idgrpo.run.draws import seed_of


@dataclass(frozen=True)
class Schedule:
    """A table of sigmas [num_steps + 1] and a law; the one place both rollout and replay take their step from."""

    sigmas: Tensor
    law: str
    std_min: float
    std_max: float
    eta: float | None

    @classmethod
    def from_config(cls, config: RolloutConfig) -> "Schedule":
        sigmas = wan_sigmas(config.num_steps, config.shift)
        # Only `wan` has a settable top level; for the others sigma_max guards the first sigma of the table.
        std_max = sigma_max_of(sigmas)
        if config.law == "wan" and config.std_max is not None:
            std_max = config.std_max
        return cls(sigmas, config.law, config.std_min, std_max, config.eta)

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1

    def step(self, x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        """Give (mean, std) of the stochastic step; sigmas [batch] float64, x [batch, ...], std [batch, 1, ...]."""
        return stochastic_step(
            self.law,
            x,
            velocity,
            sigma,
            sigma_next,
            sigma_max=self.std_max,
            eta=self.eta,
            sigma_min=self.std_min if self.law == "wan" else 0.0,
        )

    def gradient_scale(self, step: int) -> float:
        """Give |d mean / d v| / std: how strongly the log density of a step answers to the velocity."""
        one = torch.ones(1, 1)
        sigma, sigma_next = self.sigmas[step : step + 1], self.sigmas[step + 1 : step + 2]
        slope, std = self.step(torch.zeros(1, 1), one, sigma, sigma_next)
        return float(slope.abs() / std)

    def step_weights(self, rule: str, steps: range) -> dict[int, float]:
        """Give the loss weight of each step a window may hold.

        `equalise` cancels the growth of the gradient towards low noise (more than 10x over 25 steps), so that a few late
        steps do not own the update; the weights average 1 over the range, whatever window is drawn.
        """
        if rule == "none":
            return dict.fromkeys(steps, 1.0)
        inverse = {step: 1.0 / self.gradient_scale(step) for step in steps}
        mean = sum(inverse.values()) / len(inverse)
        return {step: value / mean for step, value in inverse.items()}


def window_steps(config: WindowConfig, seed: int, update: int) -> tuple[int, ...]:
    """Give the sorted indices of the stochastic steps of an update: a function of (seed, update), the same for all groups.

    `random`: a contiguous window at a random place; `scatter`: any `size` steps of the range; `slide`: moves by `stride`
    and wraps (MixGRPO, arXiv 2507.21802); `fixed`: the first `size` steps of the range. `every` updates share a window.
    """
    num_places = config.last - config.first - config.size + 1
    move = update // config.every
    if config.move == "scatter":
        steps = range(config.first, config.last)
        return tuple(sorted(sorted(steps, key=lambda step: seed_of("window", seed, move, step))[: config.size]))
    if config.move == "random":
        start = seed_of("window", seed, move) % num_places
    elif config.move == "slide":
        start = (move * config.stride) % num_places
    else:
        start = 0
    return tuple(range(config.first + start, config.first + start + config.size))

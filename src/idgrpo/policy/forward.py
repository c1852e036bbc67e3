"""Forward-process credit: a whole sample is credited, by how well the policy would denoise it again.

The finished latent x0 is noised to some sigma and the policy is asked for the velocity back. Its answer predicts
x0 = x - sigma v, which is read as a Gaussian around the truth with std sigma, so that

    log p(x0 | x) = -|v - (noise - x0)|^2 / 2 + const,     x = (1 - sigma) x0 + sigma noise

Weighted by the advantage this is Advantage Weighted Matching (arXiv 2509.25050). Everything after it (ratio, clip, KL, the
on-policy self-check) is the same as for stochastic steps, of which such a pair is one more kind.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from idgrpo.bases.contract import Base, Guidance
from idgrpo.bases.generate import draw_noise
from idgrpo.flow.laws import euler_step, log_prob
from idgrpo.policy.rollout import Draws, StoredStep, Trajectory


def forward_step(x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
    """Give mean x - sigma v [batch, ...] and std sigma [batch, 1, ...] of the clean latent (`sigma_next` is 0)."""
    return euler_step(x, velocity, sigma, sigma_next), sigma.float().reshape(-1, *([1] * (x.dim() - 1)))


def matching_error(density: Tensor, std: Tensor) -> Tensor:
    """Give |v - (noise - x0)|^2 [pair], averaged over elements, from the log density of the clean latent."""
    return -2 * density - 2 * std.log() - math.log(2 * math.pi)


@torch.no_grad()
def noised_again(
    base: Base, trajectory: Trajectory, levels: Mapping[int, float], *, guidance: Guidance, draws: Draws
) -> Trajectory:
    """Store one forward pair per noise level (sigma by denoising step) for each sample of a finished rollout.

    Members of a group get the same noise at a level: what differs between their pairs is then the sample alone.
    """
    mask, clean = base.video_mask(trajectory.batch), trajectory.latents
    stored = []
    for index, level in levels.items():
        noise = draw_noise(base, trajectory.batch, [draws.again(row, index) for row in trajectory.rows])
        sigma = torch.full((len(clean),), level, dtype=torch.float64, device=clean.device)
        x = torch.lerp(clean, noise, level)
        velocity = base.velocity(x, sigma, trajectory.batch, guidance)
        mean, std = forward_step(x, velocity, sigma, torch.zeros_like(sigma))
        stored.append(StoredStep(index, level, 0.0, x, clean, mean, log_prob(clean, mean, std, mask)))
    return replace(trajectory, stored=stored)

"""The on-policy self-check: before the first update the replay must reproduce the rollout."""

import torch

from idgrpo.errors import IdgrpoError
from idgrpo.policy.config import LossConfig
from idgrpo.policy.replay import ReplayFigures

CAUSES = (
    "rollout and replay must use the same dtype (latents float32), the same schedule and guidance, and a velocity that "
    "does not depend on which samples share a batch; a merged adapter (rollout.merged) is exact in float32 only"
)


def tolerances(config: LossConfig, dtype: torch.dtype) -> tuple[float, float]:
    """Give (ratio, mean) tolerances: the configured ones, or what the base's arithmetic allows.

    In float32 only the order of sums differs between a rollout batch and a replay batch (measured below 1e-6); a bf16
    velocity rounds differently by batch geometry, and 2e-4 still stays well inside the usual clip of 1e-3.
    """
    exact = dtype == torch.float32
    ratio = config.ratio_tolerance or (1e-5 if exact else 2e-4)
    mean = config.mean_tolerance or (1e-3 if exact else 5e-2)
    return ratio, mean


def check_on_policy(figures: ReplayFigures, config: LossConfig, dtype: torch.dtype) -> tuple[float, float]:
    """Give the largest |log ratio| and the largest rms shift of the mean; raise IdgrpoError beyond the tolerances.

    The shift is measured in standard deviations of the step. It catches what the *mean* log density hides: rounding
    latents to bf16 shifts the mean by far more than it moves the average density.
    """
    log_ratio = torch.cat(figures.log_ratio).abs()
    shift = torch.cat(figures.shift)
    worst_ratio, worst_shift = float(log_ratio.max()), float(shift.max())
    ratio_tolerance, mean_tolerance = tolerances(config, dtype)
    if worst_ratio <= ratio_tolerance and worst_shift <= mean_tolerance:
        return worst_ratio, worst_shift
    place = int(log_ratio.argmax()) if worst_ratio > ratio_tolerance else int(shift.argmax())
    raise IdgrpoError(
        f"replay does not reproduce the rollout before the first update, at denoising step {figures.steps[place]}: "
        f"largest |log ratio| {worst_ratio:.2e} (tolerance {ratio_tolerance:.0e}), "
        f"largest shift of the mean {worst_shift:.2e} std (tolerance {mean_tolerance:.0e})",
        fix=CAUSES,
    )

"""Draw videos with the current policy and keep what the replay needs; no gradient, float32 latents."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from idgrpo.bases.contract import Base, Condition, ConditionBatch, Guidance
from idgrpo.bases.finite import require_finite_rows
from idgrpo.bases.generate import draw_noise
from idgrpo.errors import UsageError
from idgrpo.flow.laws import log_prob
from idgrpo.flow.solver import solver_named
from idgrpo.policy.schedule import Schedule


@dataclass(frozen=True)
class SampleRow:
    """One sample of an update: `member` counts inside the group, `case` indexes the cases."""

    slot: int
    case: int
    case_id: str
    member: int


@dataclass(frozen=True)
class StoredStep:
    """One stochastic step of a trajectory, complete: nothing is read from a scheduler later."""

    index: int
    sigma: float
    sigma_next: float
    x: Tensor  # float32 [batch, channel, frame, height, width]
    x_next: Tensor
    mean: Tensor  # of the rollout policy; for the self-check and losses that need the exact shift
    log_prob: Tensor  # float32 [batch]


@dataclass(frozen=True)
class Trajectory:
    """Rollouts of rows whose latents have one shape."""

    rows: list[SampleRow]
    batch: ConditionBatch
    latents: Tensor  # final, sigma 0
    stored: list[StoredStep]


@dataclass(frozen=True)
class Draws:
    """Names of all random draws of an update: (run seed, update, case, member, step), never a global generator."""

    seed: int
    update: int
    noise: Literal["different", "shared"]

    def initial(self, row: SampleRow) -> tuple[int | str, ...]:
        """Name the starting noise of a row; `shared` names it alike for all members of a group."""
        member = row.member if self.noise == "different" else 0
        return ("policy-noise", self.seed, self.update, row.case_id, member)

    def step(self, row: SampleRow, step: int) -> tuple[int | str, ...]:
        """Name the noise of a stochastic step, always different between members."""
        return ("policy-step", self.seed, self.update, row.case_id, row.member, step)

    def again(self, row: SampleRow, step: int) -> tuple[int | str, ...]:
        """Name the noise that a finished sample gets for forward-process credit, the same for a whole group."""
        return ("policy-again", self.seed, self.update, row.case_id, step)


def chunks_of(rows: Sequence[SampleRow], conditions: Mapping[int, Condition], batch_size: int) -> list[list[SampleRow]]:
    """Cut rows into batches of one latent shape (same number of references), in a fixed order: no padding, no waste."""
    buckets: dict[int, list[SampleRow]] = {}
    for row in rows:
        buckets.setdefault(conditions[row.case].num_references, []).append(row)
    return [
        bucket[start : start + batch_size]
        for _, bucket in sorted(buckets.items())
        for start in range(0, len(bucket), batch_size)
    ]


@torch.no_grad()
def roll_out(
    base: Base,
    rows: list[SampleRow],
    conditions: Mapping[int, Condition],
    *,
    schedule: Schedule,
    window: tuple[int, ...],
    guidance: Guidance,
    draws: Draws,
    solver: str = "euler",
) -> Trajectory:
    """Draw one video per row: stochastic steps in the window, deterministic elsewhere and always at the last step.

    conditions by case index; rows share one number of references. The window's steps are stored.
    """
    batch = base.collate([conditions[row.case] for row in rows])
    mask = base.video_mask(batch)
    x = draw_noise(base, batch, [draws.initial(row) for row in rows])
    ode = solver_named(solver)
    stored = []
    levels = schedule.sigmas.tolist()  # read here: from a tensor on a GPU each number is a wait
    for index in range(schedule.num_steps):
        sigma = schedule.sigmas[index].expand(len(rows)).to(base.device)
        sigma_next = schedule.sigmas[index + 1].expand(len(rows)).to(base.device)
        velocity = base.velocity(x, sigma, batch, guidance)
        if index not in window:
            x = ode.step(x, velocity, levels[index], levels[index + 1])
            continue
        mean, std = schedule.step(x, velocity, sigma, sigma_next)
        x_next = mean + std * draw_noise(base, batch, [draws.step(row, index) for row in rows])
        density = log_prob(x_next, mean, std, mask)
        stored.append(StoredStep(index, levels[index], levels[index + 1], x, x_next, mean, density))
        x = x_next
        ode = solver_named(solver)  # a multistep solver must not look back over a jump of noise
    return Trajectory(rows, batch, x, stored)


Decoder = Callable[[Tensor], Tensor]
"""Latents as the transformer makes them, float32 [clip, channel, frame, height, width] -> pixels in 0..1, as `Base.decode`."""


def videos_of(base: Base, trajectory: Trajectory, decoder: Decoder | None = None) -> list[Tensor]:
    """Decode to uint8 [frame, 3, height, width] per row, in memory; decoder: instead of the base's VAE (`rollout.decoder`).

    Raises UsageError for pixels of another shape than the clips', NotFiniteError for what is not finite.
    """
    latents, batch = trajectory.latents, trajectory.batch
    with torch.no_grad():
        if decoder is None:
            pixels = base.decode(latents, batch)
        else:
            pixels = _own_pixels(decoder, latents[:, :, batch.num_slots :], batch)
    return list((pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu())


def _own_pixels(decoder: Decoder, video: Tensor, batch: ConditionBatch) -> Tensor:
    """Decode with a function from outside, whose result is looked at."""
    require_finite_rows(video, "the latents to decode")
    pixels, size = decoder(video.float()), batch.size
    expected = (len(video), size.frames, 3, size.height, size.width)
    if tuple(pixels.shape) != expected:
        raise UsageError(
            f"rollout.decoder gives pixels of shape {tuple(pixels.shape)}; [clip, frame, 3, height, width] {expected} is needed"
        )
    require_finite_rows(pixels, "decoded pixels")
    return pixels

"""Make clips: conditions, noise, a loop of steps, and the decoder; batches across cases, seeds per sample."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.bases.conditions import ConditionCache
from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.contract import Base, Condition, ConditionBatch
from idgrpo.bases.noise import draw_noise
from idgrpo.errors import DataError
from idgrpo.flow.laws import stochastic_step
from idgrpo.flow.schedule import sigma_max_of, wan_sigmas
from idgrpo.flow.solver import solver_named
from idgrpo.records.case import Case


@dataclass(frozen=True)
class Job:
    """One clip to make: a case and a seed. The pair alone decides the clip's noise."""

    case: Case
    seed: int


@dataclass(frozen=True)
class Clip:
    """A finished clip: uint8 [frame, 3, height, width] on the CPU."""

    case: Case
    seed: int
    frames: Tensor


def jobs_of(cases: Sequence[Case], *, seed: int | None = None, num_per_case: int = 1) -> list[Job]:
    """Give the clips of a run: per case `num_per_case` rising seeds from `seed`, or from the case's own (else 0)."""
    return [
        Job(case, (case.seed or 0 if seed is None else seed) + offset)
        for case in cases
        for offset in range(num_per_case)
    ]


def read_references(case: Case) -> list[Tensor]:
    """Read the photos of a case, the first image of each person, in order. Raises DataError (case and file)."""
    from idgrpo.video.read import read_image

    images = []
    for reference in case.references:
        path = Path(reference.images[0])
        if not path.is_file():
            raise DataError(
                f"case '{case.id}': the image of {reference.person} is missing: {path}",
                fix="correct the path in the cases",
            )
        images.append(read_image(path))
    return images


def encode_case(
    base: Base,
    case: Case,
    sampler: SamplerConfig,
    cache: ConditionCache,
    read: Callable[[Case], list[Tensor]] = read_references,
) -> Condition:
    """Encode a case through the cache. Raises DataError that names the case."""
    references = read(case)
    try:
        return cache.encode(base, case.prompt, references, sampler.size(base.entry))
    except DataError as error:
        raise DataError(f"case '{case.id}': {error.message}", fix=error.fix) from error


@torch.no_grad()
def sample_latents(
    base: Base,
    batch: ConditionBatch,
    noise: Tensor,
    sampler: SamplerConfig,
    names: Sequence[Sequence[int | str]],
    *,
    start: float | None = None,
) -> Tensor:
    """Run the sampler from noise to clean latents, float32 [batch, channel, frame, height, width].

    names: one per sample, for the draws of a stochastic law (("step", *name, step)); deterministic solvers draw
    nothing. start: the sigma that `noise` is at, when it is a clip noised part of the way; the steps below it remain.
    """
    full = sampler.resolved(base.entry)
    guidance = sampler.guidance_for(base.entry)
    sigmas = wan_sigmas(full.num_steps, full.shift)
    sigma_max = sigma_max_of(sigmas)
    if start is not None:
        sigmas = torch.cat([sigmas.new_tensor([start]), sigmas[sigmas < start]])
    solver = solver_named(full.solver)
    latents = noise
    for step in range(len(sigmas) - 1):
        sigma, sigma_next = float(sigmas[step]), float(sigmas[step + 1])
        time = torch.full((len(batch),), sigma, dtype=torch.float32, device=base.device)
        velocity = base.velocity(latents, time, batch, guidance)
        if full.law is None:
            latents = solver.step(latents, velocity, sigma, sigma_next)
            continue
        mean, std = stochastic_step(full.law, latents, velocity, sigma, sigma_next, sigma_max=sigma_max, eta=full.eta)
        if sigma_next > 0:
            mean = mean + std * draw_noise(base, batch, [("step", *name, step) for name in names])
        latents = mean
    return latents


def generate(
    base: Base,
    jobs: Sequence[Job],
    *,
    sampler: SamplerConfig,
    cache: ConditionCache | None = None,
    read: Callable[[Case], list[Tensor]] = read_references,
) -> Iterator[Clip]:
    """Make the clips of jobs, batch by batch, and give each as soon as its batch is decoded.

    A clip depends on (case id, seed), the case, the base and the sampler only; batches mix cases freely. For full-size
    bases all conditions are encoded first, so that the text encoder's weights can leave before the first step.
    """
    cache = ConditionCache() if cache is None else cache
    if base.entry.architecture != "tiny":
        for case in {job.case.id: job.case for job in jobs}.values():
            encode_case(base, case, sampler, cache, read)
        base.text_encoder.release()
    for start in range(0, len(jobs), sampler.batch_size):
        part = jobs[start : start + sampler.batch_size]
        batch = base.collate([encode_case(base, job.case, sampler, cache, read) for job in part])
        names = [(job.seed, job.case.id) for job in part]
        noise = draw_noise(base, batch, [("noise", *name) for name in names])
        latents = sample_latents(base, batch, noise, sampler, names)
        pixels = (base.decode(latents, batch) * 255.0).round().to(torch.uint8).cpu()
        for job, frames in zip(part, pixels, strict=True):
            yield Clip(job.case, job.seed, frames)

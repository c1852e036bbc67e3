"""Make clips: conditions, noise, a loop of steps, and the decoder; from nothing, or again from part of the way."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from idgrpo.bases.conditions import ConditionCache
from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.contract import Base, Condition, ConditionBatch, VideoSize
from idgrpo.errors import DataError
from idgrpo.flow.laws import stochastic_step
from idgrpo.flow.schedule import sigma_max_of, wan_sigmas
from idgrpo.flow.solver import solver_named
from idgrpo.records.case import Case
from idgrpo.run.draws import generator


@dataclass(frozen=True)
class SampleJob:
    """One clip to make: a case and a seed. The pair alone decides the clip's noise."""

    case: Case
    seed: int


@dataclass(frozen=True)
class GeneratedClip:
    """A finished clip: uint8 [frame, 3, height, width] on the CPU."""

    case: Case
    seed: int
    frames: Tensor


def jobs_of(cases: Sequence[Case], *, seed: int | None = None, num_per_case: int = 1) -> list[SampleJob]:
    """Give the clips of a run: per case `num_per_case` rising seeds from `seed`, or from the case's own (else 0)."""
    return [
        SampleJob(case, (case.seed or 0 if seed is None else seed) + offset)
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


def draw_noise(base: Base, batch: ConditionBatch, names: Sequence[Sequence[int | str]]) -> Tensor:
    """Draw N(0, 1) for each sample of a batch: float32 [batch, channel, frame, height, width] on the base's device.

    names: what each sample's draw is called, such as ("noise", seed, case id) or ("step", seed, case id, sample,
    step); the same name and shape give the same numbers on every machine (drawn on the CPU). Padding frames hold zeros.
    """
    drawn = []
    for name, count in zip(names, batch.num_references, strict=True):
        shape = base.latent_shape(batch.size, count)
        noise = torch.randn(shape, generator=generator(*name), dtype=torch.float32)
        padding = batch.num_slots - count if batch.num_slots else 0
        drawn.append(functional.pad(noise, (0, 0, 0, 0, padding, 0)))
    return torch.stack(drawn).to(base.device)


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
    jobs: Sequence[SampleJob],
    *,
    sampler: SamplerConfig,
    cache: ConditionCache | None = None,
    read: Callable[[Case], list[Tensor]] = read_references,
) -> Iterator[GeneratedClip]:
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
            yield GeneratedClip(job.case, job.seed, frames)


@torch.no_grad()
def renoise(
    base: Base, clip: Tensor, references: list[Tensor], prompt: str, level: float, seed: int, *, sampler: SamplerConfig
) -> Tensor:
    """Noise a clip uint8 [frame, 3, height, width] to sigma `level` and denoise it: uint8 of the same shape.

    x = (1 - s) x0 + s noise, then the sampler's steps below s (SDEdit, arXiv 2108.01073, on the straight path). At a low
    level the clip decides what is seen, at a high one the references (uint8 [3, h, w]) do. The noise depends on `seed` alone.
    Raises UsageError when the base cannot make clips of this size, DataError for references it cannot take.
    """
    num_frames, _, height, width = clip.shape
    batch = base.collate([base.encode(prompt, references, VideoSize(width, height, num_frames))])
    name = ("renoise", seed)
    clean = base.encode_clips(clip[None].float() / 255.0, batch)
    noised = (1.0 - level) * clean + level * draw_noise(base, batch, [("noise", *name)])
    latents = sample_latents(base, batch, noised, sampler, [name], start=level)
    return (base.decode(latents, batch)[0] * 255.0).round().to(torch.uint8).cpu()

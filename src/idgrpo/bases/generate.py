"""Make clips: conditions, noise, a loop of steps, and the decoder; from nothing, or again from part of the way."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from idgrpo.bases.conditions import ConditionsCache, Read, encode_case, encode_cases, read_references
from idgrpo.bases.config import MAX_CLIPS, MAX_SEED, SamplerConfig
from idgrpo.bases.contract import Base, Condition, ConditionBatch, VideoSize
from idgrpo.bases.cost import batch_that_fits, free_device_bytes
from idgrpo.bases.finite import NotFiniteError, finite_rows, require_finite_steps
from idgrpo.bases.geometry import Geometry
from idgrpo.bases.guidance import branch_weights, num_branches
from idgrpo.errors import DataError, UsageError
from idgrpo.flow.laws import stochastic_step
from idgrpo.flow.schedule import sigma_max_of, wan_sigmas
from idgrpo.flow.solver import solver_named
from idgrpo.records.models import Case
from idgrpo.run.dealing import Dealing
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
    """Give the clips of a run: per case `num_per_case` rising seeds from `seed`, or from the case's own (else 0).

    Raises UsageError for more clips than anyone can want, DataError for a case's own seed that is out of range.
    """
    if (num_clips := len(cases) * num_per_case) > MAX_CLIPS:
        raise UsageError(
            f"{len(cases):,} cases x {num_per_case:,} clips a case = {num_clips:,} clips, at most {MAX_CLIPS:,} at once",
            fix="a smaller --num-per-case, or the cases in parts",
        )
    for case in cases:
        if case.seed is not None and not 0 <= case.seed <= MAX_SEED:
            raise DataError(f"case '{case.id}': seed {case.seed} is not between 0 and {MAX_SEED}")
    return [
        SampleJob(case, (case.seed or 0 if seed is None else seed) + offset)
        for case in cases
        for offset in range(num_per_case)
    ]


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
    labels: Sequence[str] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Run the sampler from noise to clean latents, float32 [batch, channel, frame, height, width].

    names: one per sample, for the draws of a stochastic law (("step", *name, step)); deterministic solvers draw
    nothing. start: the sigma that `noise` is at, when it is a clip noised part of the way; the steps below it remain.
    labels: what errors call the samples. check: called before each step; it may raise (StopSignal.check).

    Raises NotFiniteError that names step and sample.
    """
    full = sampler.resolved(base.entry)
    guidance = sampler.guidance_for(base.entry)
    sigmas = wan_sigmas(full.num_steps, full.shift)
    sigma_max = sigma_max_of(sigmas)
    if start is not None:
        sigmas = torch.cat([sigmas.new_tensor([start]), sigmas[sigmas < start]])
    solver = solver_named(full.solver)
    latents = noise
    labels = [" ".join(map(str, name)) for name in names] if labels is None else labels
    finite: list[Tensor] = []
    for step in range(len(sigmas) - 1):
        check()
        sigma, sigma_next = float(sigmas[step]), float(sigmas[step + 1])
        time = torch.full((len(batch),), sigma, dtype=torch.float32, device=base.device)
        velocity = base.velocity(latents, time, batch, guidance)
        if full.law is None:
            latents = solver.step(latents, velocity, sigma, sigma_next)
        else:
            latents, std = stochastic_step(
                full.law, latents, velocity, sigma, sigma_next, sigma_max=sigma_max, eta=full.eta
            )
            if sigma_next > 0:
                latents = latents + std * draw_noise(base, batch, [("step", *name, step) for name in names])
        finite.append(finite_rows(latents))
        if latents.device.type == "cpu":  # elsewhere looking would wait for the device at each step
            require_finite_steps(finite, sigmas[:-1].tolist(), labels)
    require_finite_steps(finite, sigmas[:-1].tolist(), labels)
    return latents


def generate(
    base: Base,
    jobs: Sequence[SampleJob],
    *,
    sampler: SamplerConfig,
    cache: ConditionsCache | None = None,
    read: Read = read_references,
    check: Callable[[], None] = lambda: None,
    made: Callable[[SampleJob], bool] | None = None,
    dealing: Dealing | None = None,
) -> Iterator[GeneratedClip]:
    """Make the clips of jobs, batch by batch, and give each as soon as it is decoded.

    made: tells which clips are there already and are not given again. Batches stay as they were without them, since the
    last bits of a clip depend on how many are made together; those that hold nothing else are left out. dealing: other
    processes that make batches of the same jobs; what they make, which `made` must tell, is not given here.

    A clip depends on (case id, seed), the case, the base and the sampler only; batches mix cases freely. For full-size
    bases all conditions are encoded first, so that the text encoder leaves before the first step and before the transformer
    is loaded, if it is not yet. A case is read and encoded once, however many clips are made of it. `check` is
    called before each encoding, denoising step and decoding, and may raise (StopSignal.check).

    Raises NotFiniteError that names case, seed and step; no clip of that batch is given.
    """
    dealing, is_made = dealing or Dealing(), made or (lambda job: False)
    if all(map(is_made, jobs)):
        return
    cache = ConditionsCache(max_items=max(256, len(jobs))) if cache is None else cache
    size, keys = sampler.size(base.entry), {}
    if base.entry.architecture != "tiny":
        keys = encode_cases(base, (job.case for job in jobs), size, cache, read=read, check=check, dealing=dealing)
    base.load_transformer()
    known: dict[str, Condition] = {}
    batch_size = sampler.batch_size or dealing.agree("batch-size", batch_size_for(base, jobs, sampler))
    batches = [jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size)]
    part_made = None if made is None else (lambda part: all(map(is_made, part)))
    shared = dealing.share(
        batches, lambda part: f"{part[0].case.id}--s{part[0].seed}", part_made,
        label=f"sample {base.name}", unit="clips", count=len, check=check,
    )  # fmt: skip
    for part in shared:
        missing = [row for row, job in enumerate(part) if not is_made(job)]
        before, known = known, {}
        for case in {job.case.id: job.case for job in part}.values():
            kept = before.get(case.id) or (cache.get(keys[case.id], size) if case.id in keys else None)
            known[case.id] = kept or encode_case(base, case, size, cache, read)
        yield from _clips_of(base, part, missing, [known[job.case.id] for job in part], sampler, check)


def _clips_of(
    base: Base,
    part: Sequence[SampleJob],
    missing: Sequence[int],
    conditions: Sequence[Condition],
    sampler: SamplerConfig,
    check: Callable[[], None],
) -> Iterator[GeneratedClip]:
    """Make the clips of one batch together, and give those in the rows that are missing."""
    batch = base.collate(conditions, reversed_references=sampler.reversed_references)
    names = [(job.seed, job.case.id) for job in part]
    noise = draw_noise(base, batch, [("noise", *name) for name in names])
    labels = [f"case '{job.case.id}', seed {job.seed}" for job in part]
    latents = sample_latents(base, batch, noise, sampler, names, labels=labels, check=check)
    # Decoders of full size work on one clip at a time anyway: then each can be given, and a stop answered, at once.
    chunks = [list(range(len(part)))] if base.entry.architecture == "tiny" else [[row] for row in missing]
    for rows in chunks:
        check()
        frames = decoded(base, latents[rows], batch.select(rows), [labels[row] for row in rows])
        for row, clip in zip(rows, frames, strict=True):
            if row in missing:
                yield GeneratedClip(part[row].case, part[row].seed, clip)


def batch_size_for(base: Base, jobs: Sequence[SampleJob], sampler: SamplerConfig) -> int:
    """Give how many clips fit together into the free memory of the base's device, whose weights are there already.

    1 for bases of other packages, whose memory nobody knows here.
    """
    if base.entry.loader:
        return 1
    guidance = sampler.guidance_for(base.entry)
    return batch_that_fits(
        free_device_bytes(base.device),
        base.transformer_config,
        Geometry.of(base.vae.config, base.transformer_config),
        sampler.size(base.entry),
        num_references=max((len(job.case.references) for job in jobs), default=1),
        num_branches=num_branches(branch_weights(base.entry.family, guidance), guidance.mode),
        bytes_per_value=base.dtype.itemsize,
    )


def decoded(base: Base, latents: Tensor, batch: ConditionBatch, labels: Sequence[str]) -> Tensor:
    """Decode to uint8 [batch, frame, 3, height, width] on the CPU. Raises NotFiniteError with the sample's label."""
    try:
        pixels = base.decode(latents, batch)
    except NotFiniteError as error:
        raise NotFiniteError(f"{labels[error.rows[0]]}: {error.message.partition(': ')[2]}", error.rows) from error
    return (pixels * 255.0).round().to(torch.uint8).cpu()


@torch.no_grad()
def renoise(
    base: Base,
    clip: Tensor,
    references: list[Tensor],
    prompt: str,
    level: float,
    seed: int,
    *,
    sampler: SamplerConfig,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Noise a clip uint8 [frame, 3, height, width] to sigma `level` and denoise it: uint8 of the same shape.

    x = (1 - s) x0 + s noise, then the sampler's steps below s (SDEdit, arXiv 2108.01073, on the straight path). At a low
    level the clip decides what is seen, at a high one the references (uint8 [3, h, w]) do. The noise depends on `seed` alone.
    `check` is called before each step and may raise. Raises UsageError when the base cannot make clips of this size, DataError
    for references it cannot take, NotFiniteError.
    """
    num_frames, _, height, width = clip.shape
    condition = base.encode(prompt, references, VideoSize(width, height, num_frames))
    batch = base.collate([condition], reversed_references=sampler.reversed_references)
    name = ("renoise", seed)
    clean = base.encode_clips(clip[None].float() / 255.0, batch)
    noised = (1.0 - level) * clean + level * draw_noise(base, batch, [("noise", *name)])
    latents = sample_latents(base, batch, noised, sampler, [name], start=level, check=check)
    return decoded(base, latents, batch, [f"renoise {seed}"])[0]

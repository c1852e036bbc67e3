"""The `sample` stage: cases to videos, records and contact sheets; a killed run goes on where it stopped."""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from idgrpo.bases.conditions import ConditionsCache, Read, read_references
from idgrpo.bases.config import SampleConfig, SamplerConfig
from idgrpo.bases.contract import Base
from idgrpo.bases.cost import clip_size_bytes, condition_size_bytes
from idgrpo.bases.generate import SampleJob, generate
from idgrpo.bases.inventory import default_device
from idgrpo.bases.load import load_base
from idgrpo.bases.tuned import load_tuned
from idgrpo.records.jsonl import write_records
from idgrpo.records.models import Case, Sample
from idgrpo.run.dealing import Dealing
from idgrpo.run.machine import require_disk
from idgrpo.video.read import read_video
from idgrpo.video.sheet import contact_sheet
from idgrpo.video.write import write_image, write_video

if TYPE_CHECKING:
    from idgrpo.bases.wan import WanBase

SHEET_FRAMES = 5
"""Frames of each clip on a contact sheet, spread over its length."""
COPIES = 2
"""How often a clip lies on the disk: in the run, and in the artifact that is published from it."""


def load_for_sampling(settings: SampleConfig, policy: Path | None = None) -> "WanBase":
    """Load the base that the settings of `sample` name, as they say (device, tiles, dtype of the VAE, ..), with a policy on it.

    The transformer of a full-size base is read when the cases are encoded, and the policy is put on it then: text encoder and
    transformer never need memory at the same time.
    """
    base = load_base(
        settings.named_base,
        device=settings.device or default_device(),
        encoder_device=settings.encoder_device,
        vae_tiling=settings.vae_tiling,
        vae_dtype=settings.vae_dtype,
        reversed_references=settings.sampler.reversed_references,
        with_transformer=False,
        base_weights=settings.base_weights,
        attention=settings.attention,
    )
    if policy is not None:
        base.when_loaded = partial(load_tuned, source=policy)
    if base.entry.architecture == "tiny":
        base.load_transformer()
    return base


def load_for_renoising(settings: SampleConfig, prompts: Iterable[str]) -> "WanBase":
    """Load a base for `renoise`, which meets other photos with every clip, but no other prompts: these are encoded first.

    So text encoder and transformer of a full-size base never need memory at the same time.
    """
    base = load_for_sampling(settings)
    if base.entry.architecture != "tiny" and not base.entry.loader:
        base.encode_prompts(prompts)
    base.load_transformer()
    return base


def sample_to_folder(
    base: Base,
    jobs: Sequence[SampleJob],
    folder: Path,
    *,
    sampler: SamplerConfig,
    lossless: bool | None = None,
    policy: str | None = None,
    read: Read = read_references,
    cache: ConditionsCache | None = None,
    check: Callable[[], None] = lambda: None,
    dealing: Dealing | None = None,
) -> list[Sample]:
    """Make the clips of jobs into `folder`: videos/, samples.jsonl, contact_sheets/<case>.png.

    A video appears under its name only when it is complete, and depends on (case id, seed) only: videos that are there
    are kept, the missing ones are made, and the result is that of a run that was never interrupted. `check` is called
    between denoising steps and after each clip, and may raise (StopSignal.check). lossless None takes the base's habit. policy: what the adapter on
    the base is called. cache: encodings shared with other runs; full-size bases keep theirs in `folder` else. dealing: other processes that
    make clips of the same jobs into the same folder; records and sheets are written by the one that publishes.

    Returns the samples in the order of jobs.

    Raises MachineError before anything is made when the disk has no room for it, NotFiniteError before a clip is written.
    """
    lossless = base.entry.lossless if lossless is None else lossless
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    paths = {(job.case.id, job.seed): videos / f"{sample_id(job.case.id, job.seed)}.mp4" for job in jobs}
    missing = [job for job in jobs if not _is_there(paths[job.case.id, job.seed])]
    if cache is None:
        cache = ConditionsCache(None if base.entry.architecture == "tiny" else folder / "conditions")
    size = sampler.size(base.entry)
    needed = COPIES * len(missing) * clip_size_bytes(size, lossless=lossless)
    if cache.folder is not None and not base.entry.loader:
        needed += sum(
            condition_size_bytes(base.transformer_config, base.vae.config, size, len(case.references))
            for case in {job.case.id: job.case for job in missing}.values()
        )
    require_disk(folder, needed)
    clips = generate(
        base, jobs, sampler=sampler, cache=cache, read=read, check=check, dealing=dealing,
        made=lambda job: _is_there(paths[job.case.id, job.seed]),
    )  # fmt: skip
    for clip in clips:
        write_video(paths[clip.case.id, clip.seed], clip.frames, fps=base.entry.fps, lossless=lossless)
        check()
    samples = [_record(base, job, paths[job.case.id, job.seed], sampler, policy) for job in jobs]
    if dealing is not None and not dealing.publishes:
        return samples
    write_records(folder / "samples.jsonl", samples)
    _write_sheets(folder / "contact_sheets", jobs, paths, read)
    return samples


def _is_there(clip: Path) -> bool:
    """Tell whether a clip was made; a power cut can leave a name without content."""
    return clip.is_file() and clip.stat().st_size > 0


def copy_samples(samples: Sequence[Sample], source: Path, target: Path) -> list[Sample]:
    """Copy finished samples (videos, contact sheets) to another folder and write their records there.

    Records are written anew because their paths are relative to their folder.
    """
    for part in ("videos", "contact_sheets"):
        (target / part).mkdir(parents=True, exist_ok=True)
        for path in sorted((source / part).glob("[!.]*")):
            shutil.copyfile(path, target / part / path.name)
    copied = [
        sample.model_copy(update={"video": str(target / "videos" / Path(sample.video).name)}) for sample in samples
    ]
    write_records(target / "samples.jsonl", copied)
    return copied


def sample_id(case_id: str, seed: int) -> str:
    """Give a file name for a clip; ids that are no file names get a digest so that they stay apart."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", case_id)[:80]
    digest = "" if plain == case_id else "-" + hashlib.sha256(case_id.encode()).hexdigest()[:8]
    return f"{plain}{digest}--s{seed}"


def _record(base: Base, job: SampleJob, video: Path, sampler: SamplerConfig, policy: str | None) -> Sample:
    return Sample(
        id=sample_id(job.case.id, job.seed),
        case_id=job.case.id,
        prompt=job.case.prompt,
        references=job.case.references,
        video=str(video.absolute()),
        base=base.name,
        policy=policy,
        seed=job.seed,
        sampler=sampler_record(base, sampler),
    )


def sampler_record(base: Base, sampler: SamplerConfig) -> dict[str, Any]:
    """Give every setting that decides the pixels; batch size is not among them."""
    values = sampler.resolved(base.entry).model_dump(mode="json", exclude={"batch_size"})
    values["reversed_references"] = sampler.reversed_references or base.reversed_references
    values |= {"dtype": str(base.dtype).removeprefix("torch."), "revision": base.entry.revision}
    weight = next(base.vae.parameters(), None)
    vae_dtype = "float32" if weight is None else str(weight.dtype).removeprefix("torch.")
    differs = {"vae_tiling": getattr(base, "has_tiled", False), "vae_dtype": vae_dtype != "float32" and vae_dtype}
    return values | {name: value for name, value in differs.items() if value} | getattr(base, "numerics", {})


def _write_sheets(
    folder: Path,
    jobs: Sequence[SampleJob],
    paths: dict[tuple[str, int], Path],
    read: Callable[[Case], list[Tensor]],
) -> None:
    """Write one PNG per case: a row for each seed, references beside frames."""
    folder.mkdir(parents=True, exist_ok=True)
    by_case: dict[str, list[SampleJob]] = {}
    for job in jobs:
        by_case.setdefault(job.case.id, []).append(job)
    for case_id, members in by_case.items():
        references = read(members[0].case)
        rows: list[list[Tensor]] = []
        for job in members:
            clip = read_video(paths[case_id, job.seed])
            last = len(clip) - 1
            spread = sorted({round(last * place / (SHEET_FRAMES - 1)) for place in range(SHEET_FRAMES)})
            rows.append([*references, *(clip[index] for index in spread)])
        captions = [f"{case_id}, seed {job.seed}" for job in members]
        name = sample_id(case_id, 0).removesuffix("--s0")
        write_image(folder / f"{name}.png", contact_sheet(rows, captions))

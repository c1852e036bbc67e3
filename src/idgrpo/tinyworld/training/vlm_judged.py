"""Clips that the bases really make, judged by the oracle: what pre-training cannot learn from rendered clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.generate import generate, jobs_of
from idgrpo.bases.load import load_base
from idgrpo.tinyworld.cases import make_cases, write_cases
from idgrpo.tinyworld.oracle import opinion
from idgrpo.tinyworld.people import attributes_of, person_code
from idgrpo.tinyworld.render import portraits
from idgrpo.tinyworld.training.pool import to_bytes
from idgrpo.tinyworld.training.vlm_truth import FRAMES, cell_owner, look

CLIPS_PER_CASE = 4


@dataclass(frozen=True)
class JudgedLesson:
    """A batch of generated clips and the oracle's opinion of them; a `Lesson` with probabilities for truth.

    CLIPS_PER_CASE clips of one case follow each other: a reward is used to choose among those.
    """

    videos: Tensor  # uint8 [batch, frame, 3, h, w], the four frames that the model sees
    references: Tensor  # uint8 [batch, person, 3, h, w]
    asked: Tensor  # int64 [batch, person, attribute], of the references
    shown: Tensor  # float [batch, frame, person, choices of all attributes], what the person's track looks like
    owner: Tensor  # int64 [batch, frame, cell], the person who covers most of a cell, -1 for none
    agreement: Tensor  # float [batch, person, attribute] in 0..1, over the whole clip


@dataclass(frozen=True)
class JudgedClips:
    """Judged clips of many cases, CLIPS_PER_CASE after each other; shapes as in `JudgedLesson` with the clip for the batch."""

    videos: Tensor
    codes: Tensor  # int64 [clip, person]
    shown: Tensor
    owner: Tensor
    agreement: Tensor

    def draw(self, generator: torch.Generator, batch: int) -> JudgedLesson:
        """Return random cases, people in random order, half of the batches mirrored left to right, each clip with a look of its own."""
        cases = torch.randint(len(self.videos) // CLIPS_PER_CASE, (batch // CLIPS_PER_CASE, 1), generator=generator)
        rows = (cases * CLIPS_PER_CASE + torch.arange(CLIPS_PER_CASE)).flatten()
        order = torch.rand(len(cases), self.codes.shape[1], generator=generator).argsort(1)
        order = order.repeat_interleave(CLIPS_PER_CASE, 0)
        videos, owner = self.videos[rows], self.owner[rows]
        place = order.argsort(1).unsqueeze(1).expand(-1, owner.shape[1], -1)
        owner = torch.where(owner >= 0, place.gather(2, owner.clamp(min=0)), owner)
        if torch.rand((), generator=generator) < 0.5:
            side = int(owner.shape[2] ** 0.5)
            videos, owner = videos.flip(-1), owner.unflatten(2, (side, side)).flip(-1).flatten(2)
        videos = to_bytes(look(videos.float() / 255, generator))
        codes = self.codes[rows].gather(1, order)
        frames = torch.arange(self.shown.shape[1]).view(1, -1, 1)
        return JudgedLesson(
            videos, to_bytes(portraits(codes)), attributes_of(codes),
            self.shown[rows.view(-1, 1, 1), frames, order.unsqueeze(1)], owner, self.agreement[rows.unsqueeze(1), order],
        )  # fmt: skip


def judge_clips(
    checkpoints: Path, cache: Path, *, bases: Sequence[str], num_cases: int, num_people: int, seed: int
) -> JudgedClips:
    """Let each base draw CLIPS_PER_CASE clips of `num_cases` cases and ask the oracle about them; kept in `cache`."""
    if cache.exists():
        return JudgedClips(**torch.load(cache, weights_only=True))
    rows: list[dict[str, Tensor]] = []
    with TemporaryDirectory() as folder:
        cases = write_cases(Path(folder), make_cases(num_cases, seed, "train", num_people))
        for name in bases:
            jobs = jobs_of(cases, seed=5, num_per_case=CLIPS_PER_CASE)
            for clip in generate(load_base(str(checkpoints / name)), jobs, sampler=SamplerConfig(batch_size=32)):
                rows.append(judge(clip.frames, [reference.person for reference in clip.case.references]))
    pool = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    torch.save(pool, cache)
    return JudgedClips(**pool)


def judge(clip: Tensor, people: list[str]) -> dict[str, Tensor]:
    """Return the oracle's opinion of one clip uint8 [f, 3, h, w] as the fields of `JudgedClips`."""
    seen, keep = opinion(clip, people), list(FRAMES)
    assigned, frames = seen.assigned[keep], torch.arange(len(keep)).unsqueeze(1)
    shown = torch.stack([torch.cat(track, -1)[keep] for track in seen.shown])
    return {
        "videos": clip[keep],
        "codes": torch.tensor([person_code(person) for person in people]),
        "shown": shown[assigned, frames],
        "owner": cell_owner(seen.cover[:, keep][assigned, frames].transpose(0, 1).unsqueeze(0))[0],
        "agreement": (seen.alike * seen.weight.view(1, -1, 1)).mean(1).clamp(0, 1),
    }

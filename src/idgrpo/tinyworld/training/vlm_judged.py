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
from idgrpo.tinyworld.oracle import Sight, look_at, opinions
from idgrpo.tinyworld.people import NUM_CHOICES, attributes_of, code_of, person_code
from idgrpo.tinyworld.render import portraits
from idgrpo.tinyworld.training.pool import to_bytes
from idgrpo.tinyworld.training.vlm_truth import FRAMES, cell_owner, look

CLIPS_PER_CASE = 4
ASKED_ANEW = 0.5  # of the batches ask for other people than the clips were made of


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
    """Clips of many cases and what the oracle sees in them, whoever is asked for; CLIPS_PER_CASE of a case after each other."""

    videos: Tensor  # uint8 [clip, frame, 3, h, w], all frames
    codes: Tensor  # int64 [clip, person], who was to be drawn
    shown: Tensor  # [clip, frame, track, choices of all attributes]
    evidence: Tensor  # [clip, frame, track]
    near: Tensor  # bool [clip, frame]
    owner: Tensor  # int8 [clip, frame, cell], the track that covers most of a cell, -1 for none

    def frames(self, generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return single frames of any clips: pixels uint8 [batch, 3, h, w], shown [batch, track, choices] and owner [batch, cell]."""
        rows = torch.randint(len(self.videos), (batch,), generator=generator)
        frame = torch.randint(self.videos.shape[1], (batch,), generator=generator)
        videos, owner = _mirrored(self.videos[rows, frame], self.owner[rows, frame].long(), generator)
        return _in_any_look(videos.unsqueeze(1), generator)[:, 0], self.shown[rows, frame].float(), owner

    def draw(self, generator: torch.Generator, batch: int) -> JudgedLesson:
        """Return random cases, people in random order, half of the batches mirrored left to right, each clip with a look of its own."""
        cases = torch.randint(len(self.videos) // CLIPS_PER_CASE, (batch // CLIPS_PER_CASE, 1), generator=generator)
        rows = (cases * CLIPS_PER_CASE + torch.arange(CLIPS_PER_CASE)).flatten()
        asked = attributes_of(self.codes[rows[::CLIPS_PER_CASE]])
        if torch.rand((), generator=generator) < ASKED_ANEW:
            asked = self._others(rows.view(-1, CLIPS_PER_CASE), asked, generator)
        order = torch.rand(asked.shape[:2], generator=generator).argsort(1)
        asked = asked[torch.arange(len(cases)).unsqueeze(1), order].repeat_interleave(CLIPS_PER_CASE, 0)
        sight = Sight(self.shown[rows].float(), self.evidence[rows], self.near[rows])
        seen, keep = opinions(sight, asked), list(FRAMES)
        assigned = seen.assigned[:, keep]
        owner = self.owner[rows][:, keep].long()
        owner = torch.where(owner >= 0, assigned.argsort(2).gather(2, owner.clamp(min=0)), owner)
        videos, owner = _mirrored(self.videos[rows][:, keep], owner, generator)
        shown = sight.shown[:, keep]
        return JudgedLesson(
            _in_any_look(videos, generator), to_bytes(portraits(code_of(asked))), asked,
            shown.gather(2, assigned.unsqueeze(-1).expand(-1, -1, -1, shown.shape[-1])), owner,
            (seen.alike * sight.weight[:, None, :, None]).mean(2).clamp(0, 1),
        )  # fmt: skip

    def _others(self, rows: Tensor, asked: Tensor, generator: torch.Generator) -> Tensor:
        """Return people to ask for in the place of `asked` [case, person, attribute], of clips `rows` [case, CLIPS_PER_CASE].

        Attribute by attribute they are as asked, as one of the clips shows somebody, as the next person, or invented: else a
        model may remember clips instead of comparing them, and never sees right people in a generator's look.
        """

        def chance(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        cases, people, _ = asked.shape
        chosen = rows.gather(1, torch.randint(CLIPS_PER_CASE, (cases, 1), generator=generator))[:, 0]
        surely = (self.shown[chosen].float() * self.evidence[chosen].unsqueeze(-1)).mean(1)
        shown = torch.stack([part.argmax(-1) for part in surely.split(NUM_CHOICES, -1)], -1)
        invented = torch.stack([torch.randint(n, (cases, people), generator=generator) for n in NUM_CHOICES], -1)
        kind = chance(cases, people, 1)
        source = torch.where(kind < 0.6, shown, torch.where(kind < 0.8, asked.roll(1, 1), invented))
        share = chance(cases, people, 1) * (chance(cases, people, 1) < 0.85)
        return torch.where(chance(*asked.shape) < share, source, asked)


def _mirrored(videos: Tensor, owner: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror videos [.., h, w] and owners [.., cell] left to right, half of the times."""
    if torch.rand((), generator=generator) < 0.5:
        return videos, owner
    side = int(owner.shape[-1] ** 0.5)
    return videos.flip(-1), owner.unflatten(-1, (side, side)).flip(-1).flatten(-2)


def _in_any_look(videos: Tensor, generator: torch.Generator) -> Tensor:
    return to_bytes(look(videos.float() / 255, generator))


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
    """Return what the oracle sees in one clip uint8 [f, 3, h, w] as the fields of `JudgedClips`."""
    sight, cover = look_at(clip, len(people))
    return {
        "videos": clip,
        "codes": torch.tensor([person_code(person) for person in people]),
        "shown": sight.shown.half(),
        "evidence": sight.evidence,
        "near": sight.near,
        "owner": cell_owner(cover.unsqueeze(0))[0].to(torch.int8),
    }

"""Supervised fine-tuning: stored clips as one more source of finished samples, each with advantage 1.

A clip x0 is noised to sigma and the policy is asked for the velocity back, exactly as forward-process credit asks
(`forward.py`), so the loss of a pair is flow matching: |v - (noise - x0)|^2 / 2 (Lipman et al. 2023, arXiv 2210.02747).
With `clips.guidance` the clip is first moved along what, in the reference policy's eyes, tells its people apart
(`replay.apart`). Clips are encoded once and lie in the run's folder from then on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idgrpo.bases.conditions import ConditionsCache
from idgrpo.bases.contract import Base, Condition, VideoSize
from idgrpo.bases.generate import draw_noise
from idgrpo.errors import DataError
from idgrpo.policy.clips import StoredClip, read_clip
from idgrpo.policy.config import PolicyConfig, WindowConfig
from idgrpo.policy.figures import PhaseTimer
from idgrpo.policy.groups import CaseBook, groups_of_update, share_of_rank
from idgrpo.policy.replay import Pairs, UpdateData
from idgrpo.policy.weights import read_weights, save_weights
from idgrpo.records.atomic import replacing
from idgrpo.run.distributed import World
from idgrpo.run.draws import generator, seed_of
from idgrpo.run.engine import Engine
from idgrpo.run.progress import progress


class ClipBook:
    """Stored clips of a run: their cases' conditions in memory, their latents in a folder."""

    def __init__(
        self,
        base: Base,
        clips: Sequence[StoredClip],
        size: VideoSize,
        folder: Path,
        cache: ConditionsCache | None = None,
    ):
        self.base, self.clips, self.size, self.folder = base, list(clips), size, folder
        places: dict[str, int] = {}
        self._case_of = [places.setdefault(clip.case.model_dump_json(), len(places)) for clip in self.clips]
        firsts = [self._case_of.index(place) for place in range(len(places))]
        self.book = CaseBook(base, [self.clips[first].case for first in firsts], size, cache)

    def __len__(self) -> int:
        return len(self.clips)

    def condition(self, index: int) -> Condition:
        """Give the encoding of a clip's prompt and references."""
        return self.book[self._case_of[index]]

    def references(self, index: int) -> list[Tensor]:
        """Give the reference pictures of a clip, uint8 [3, height, width]."""
        return self.book.references(self._case_of[index])

    def latents(self, index: int) -> Tensor:
        """Read the clean state of a clip, float32 [channel, frame, height, width]."""
        return read_weights(self._path(index), self.base.device)["latents"]

    def encode(self, world: World) -> None:
        """Encode the clips that are not in the folder yet, each by one rank; a clip of another size is refused."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [index for index in range(len(self)) if not self._path(index).is_file()]
        own = missing[world.rank :: world.size]
        with progress(len(own), "encode clips", unit="clip") as bar:
            for index in own:
                pixels = read_clip(self.clips[index], self.size)
                batch = self.base.collate([self.condition(index)])
                latents = self.base.encode_clips(pixels[None].float().to(self.base.device) / 255.0, batch)[0]
                if not bool(latents.isfinite().all()):
                    raise DataError(
                        f"the encoding of {self.clips[index].video} is not finite", fix="leave the clip out"
                    )
                with replacing(self._path(index)) as draft:
                    save_weights(draft, {"latents": latents})
                bar.advance(1)
        world.barrier()

    def _path(self, index: int) -> Path:
        # The run's folder belongs to one set of inputs, whose digests its name holds: the place of a clip in it is enough.
        return self.folder / f"{index:06d}.safetensors"


class ClipSource:
    """Gives an update `clips.num_per_update` stored clips, each noised to `rollout.window.size` levels."""

    def __init__(self, base: Base, book: ClipBook, config: PolicyConfig, engine: Engine):
        self.base, self.book, self.config, self.world = base, book, config, engine.world

    def data(self, number: int, timer: PhaseTimer, stop_requested: Callable[[], bool]) -> UpdateData:
        """Give what update `number` learns from; there is nothing to wait for, so a stop comes after the update."""
        setting, window = self.config, self.config.rollout.window
        num_clips = setting.clips.num_per_update
        everyones = groups_of_update(len(self.book), num_clips, setting.seed, number)
        own = share_of_rank(everyones, self.world.rank, self.world.size)
        places = [(group.slot, group.case, level) for group in own for level in range(window.size)]
        with timer.phase("condition"):
            conditions = {clip: self.book.condition(clip) for _, clip, _ in places}
            buckets: dict[int, list[tuple[int, int, int]]] = {}
            for place in places:  # one latent shape a batch: no padding
                buckets.setdefault(conditions[place[1]].num_references, []).append(place)
            batches = [
                partial(self._pairs, number, bucket[start : start + setting.loss.micro_batch], conditions)
                for _, bucket in sorted(buckets.items())
                for start in range(0, len(bucket), setting.loss.micro_batch)
            ]
        return UpdateData(
            batches=batches,
            spare=batches[0],
            total_pairs=num_clips * window.size,
            num_samples=num_clips,
            figures={"epoch": float(number // (len(self.book) // num_clips))},
            rolled_out=False,
        )

    def _pairs(self, number: int, places: list[tuple[int, int, int]], conditions: Mapping[int, Condition]) -> Pairs:
        setting, window = self.config, self.config.rollout.window
        count = setting.clips.num_per_update * window.size
        batch = self.base.collate([conditions[clip] for _, clip, _ in places])
        clean = torch.stack([self.book.latents(clip) for _, clip, _ in places])
        ids = [self.book.clips[clip].id for _, clip, _ in places]
        levels = []
        for (slot, _, level), name in zip(places, ids, strict=True):
            draw = torch.rand((), generator=generator("sft-level", setting.seed, number, name, level)).double()
            share = (slot * window.size + level + float(draw)) / count  # spread over the range, one part each
            levels.append(noise_level(share, window, setting.rollout.num_steps, setting.rollout.shift))
        sigma = torch.tensor(levels, dtype=torch.float64, device=self.base.device)
        names = [("sft-noise", setting.seed, number, name, place[2]) for name, place in zip(ids, places, strict=True)]
        noise = draw_noise(self.base, batch, names)
        ones = torch.ones(len(places), device=self.base.device)
        rival = None
        if setting.clips.guidance:  # also where one person is alone, as themselves: ranks make equally many forwards
            stands = [seed_of("sft-person", setting.seed, number, *name[3:]) for name in names]
            rival = self.base.collate(
                [one_for_all(conditions[clip], who) for (_, clip, _), who in zip(places, stands, strict=True)]
            )
        return Pairs(
            x=torch.lerp(clean, noise, sigma.float().reshape(-1, 1, 1, 1, 1)),
            x_next=clean,
            old_mean=None,
            old_log_prob=None,
            sigma=sigma,
            sigma_next=torch.zeros_like(sigma),
            batch=batch,
            advantage=ones,
            weight=ones,
            steps=[0] * len(places),
            with_kl=[row for row, (_, _, level) in enumerate(places) if setting.kl.steps == "all" or level == 0],
            kl_share=float(window.size) if setting.kl.steps == "first" else 1.0,
            rival=rival,
            rival_weight=setting.clips.guidance,
            clip_share=setting.clips.share,
        )

    def state(self) -> dict[str, Any]:
        """Nothing beside weights and counters."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take back."""

    def preview(self, completed: int) -> None:
        """Draw nothing: there are no rollouts to look at; held-out clips show what was learnt."""


def one_for_all(condition: Condition, who: int) -> Condition:
    """Give a condition in which the person `who` (modulo their number) stands in everybody's place."""
    count = condition.num_references
    return replace(condition, references=condition.references[:, [who % count] * count], key="")


def noise_level(share: float, window: WindowConfig, num_steps: int, shift: float) -> float:
    """Give the sigma at a share 0..1 of the window's range of a rollout of `num_steps`, step `first` last (share 1).

    u = share between the times of the two ends, sigma = shift u / (1 + (shift - 1) u), as `flow.schedule.wan_sigmas`.
    """
    low, high = 1 - window.last / num_steps, 1 - window.first / num_steps
    u = low + (high - low) * share
    return shift * u / (1 + (shift - 1) * u)

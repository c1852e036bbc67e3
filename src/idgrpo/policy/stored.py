"""Stored clips as a source of finished samples: encoded once, dealt out to updates and ranks, noised to spread levels.

A clip x0 is noised to sigma and the policy is asked for the velocity back, exactly as forward-process credit asks
(`forward.py`). What is learnt from that is the method's: each of `sft.py` and `dpo.py` fills `_pairs`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idgrpo.bases.conditions import ConditionsCache
from idgrpo.bases.contract import Base, Condition, ConditionBatch, VideoSize
from idgrpo.errors import DataError
from idgrpo.policy.clips import StoredClip, read_clip
from idgrpo.policy.config import PolicyConfig, WindowConfig
from idgrpo.policy.figures import PhaseTimer
from idgrpo.policy.groups import CaseBook, groups_of_update, share_of_rank
from idgrpo.policy.replay import Pairs, UpdateData
from idgrpo.policy.weights import read_weights, save_weights
from idgrpo.records.atomic import replacing
from idgrpo.run.distributed import World
from idgrpo.run.draws import generator
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
        with progress(len(own), "encode clips", unit="clip", shown=world.is_main) as bar:
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


@dataclass(frozen=True)
class Place:
    """One item (a clip, or a preference between two) at one noise level of an update."""

    item: int
    level: int  # counts the levels of the item in this update
    sigma: float


class StoredSource(ABC):
    """Gives an update `clips.num_per_update` items, each noised to `rollout.window.size` levels.

    The levels of an update fill the window's range evenly, one part of it each, so that updates are alike.
    """

    rows_per_item = 1
    """Clips that an item puts into a batch."""

    def __init__(self, base: Base, book: ClipBook, config: PolicyConfig, engine: Engine):
        self.base, self.book, self.config, self.world = base, book, config, engine.world

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The items' names: all draws of an item are functions of its name, never of its place."""

    @abstractmethod
    def condition(self, item: int) -> Condition:
        """Give the encoding of the item's case."""

    @abstractmethod
    def _pairs(self, number: int, places: list[Place], conditions: Mapping[int, Condition]) -> Pairs:
        """Make a micro-batch of items whose cases have equally many references."""

    def data(self, number: int, timer: PhaseTimer, stop_requested: Callable[[], bool]) -> UpdateData:
        """Give what update `number` learns from; there is nothing to wait for, so a stop comes after the update."""
        setting, window = self.config, self.config.rollout.window
        num_items = setting.clips.num_per_update
        everyones = groups_of_update(len(self.names), num_items, setting.seed, number)
        own = share_of_rank(everyones, self.world.rank, self.world.size)
        places = [self._place(number, group.slot, group.case, level) for group in own for level in range(window.size)]
        at_once = max(setting.loss.micro_batch // self.rows_per_item, 1)
        with timer.phase("condition"):
            conditions = {place.item: self.condition(place.item) for place in places}
            buckets: dict[int, list[Place]] = {}
            for place in places:  # one latent shape a batch: no padding
                buckets.setdefault(conditions[place.item].num_references, []).append(place)
            batches = [
                partial(self._pairs, number, bucket[start : start + at_once], conditions)
                for _, bucket in sorted(buckets.items())
                for start in range(0, len(bucket), at_once)
            ]
        return UpdateData(
            batches=batches,
            spare=batches[0],
            total_pairs=num_items * window.size,
            num_samples=num_items * self.rows_per_item,
            figures={"epoch": float(number // (len(self.names) // num_items))},
            rolled_out=False,
        )

    def state(self) -> dict[str, Any]:
        """Nothing beside weights and counters."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take back."""
        return None

    def preview(self, completed: int) -> None:
        """Draw nothing: there are no rollouts to look at; held-out clips show what was learnt."""
        return None

    def _place(self, number: int, slot: int, item: int, level: int) -> Place:
        setting, window = self.config, self.config.rollout.window
        draws = (f"{setting.method}-level", setting.seed, number, self.names[item], level)
        draw = float(torch.rand((), generator=generator(*draws)).double())
        share = (slot * window.size + level + draw) / (setting.clips.num_per_update * window.size)
        return Place(item, level, noise_level(share, window, setting.rollout.num_steps, setting.rollout.shift))

    def _draws(self, what: str, number: int, place: Place) -> tuple[Any, ...]:
        """Name a random draw of an item at a level."""
        return (f"{self.config.method}-{what}", self.config.seed, number, self.names[place.item], place.level)

    def _noised(
        self, clean: Tensor, noise: Tensor, places: Sequence[Place], batch: ConditionBatch, **of_the_method: Any
    ) -> Pairs:
        """Noise clips [row, channel, frame, height, width] to the levels of their places."""
        setting, window = self.config, self.config.rollout.window
        device, ones = self.base.device, torch.ones(len(places), device=self.base.device)
        sigma = torch.tensor([place.sigma for place in places], dtype=torch.float64, device=device)
        with_kl = [row for row, place in enumerate(places) if setting.kl.steps == "all" or place.level == 0]
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
            with_kl=with_kl,
            kl_share=(window.size if setting.kl.steps == "first" else 1) / self.rows_per_item,  # mean over items
            **of_the_method,
        )


def noise_level(share: float, window: WindowConfig, num_steps: int, shift: float) -> float:
    """Give the sigma at a share 0..1 of the window's range of a rollout of `num_steps`, step `first` last (share 1).

    u = share between the times of the two ends, sigma = shift u / (1 + (shift - 1) u), as `flow.schedule.wan_sigmas`.
    """
    low, high = 1 - window.last / num_steps, 1 - window.first / num_steps
    u = low + (high - low) * share
    return shift * u / (1 + (shift - 1) * u)

"""The cases of a run: encoded once, and dealt out to updates and ranks as a pure function of (seed, update, rank)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import TypeVar

import torch
from torch import Tensor

from idgrpo.bases.conditions import ConditionsCache, encode_case, read_references
from idgrpo.bases.contract import Base, Condition, VideoSize
from idgrpo.errors import UsageError
from idgrpo.records.models import Case
from idgrpo.run.distributed import World
from idgrpo.run.draws import seed_of
from idgrpo.run.progress import progress

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """One group of an update: `slot` counts the groups of the update over all ranks, `case` indexes the cases."""

    slot: int
    case: int


def check_geometry(num_cases: int, num_groups: int, group_size: int, world_size: int) -> None:
    """Refuse what cannot be spread evenly, with the arithmetic and the nearest valid values.

    A group may lie on several ranks: rewards are gathered before anything is computed over a group.
    """
    if num_groups > num_cases:
        raise UsageError(
            f"{num_groups} groups per update need {num_groups} different cases, but there are {num_cases}",
            fix=f"--set group.num_cases={num_cases}, or give more cases",
        )
    num_samples = num_groups * group_size
    if num_samples % world_size:
        lower, upper = nearest_num_groups(num_groups, group_size, world_size)
        nearest = f"{lower} or {upper}" if lower else f"{upper}"
        raise UsageError(
            f"{num_groups} groups of {group_size} samples do not divide over {world_size} ranks ({num_samples} % {world_size} = "
            f"{num_samples % world_size}): ranks would have unequal rows and hang",
            fix=f"--set group.num_cases={nearest}",
        )


def nearest_num_groups(num_groups: int, group_size: int, world_size: int) -> tuple[int, int]:
    """Give the nearest numbers of groups whose samples divide over the ranks, not above (0: none) and not below."""
    step = world_size // gcd(world_size, group_size)
    return num_groups // step * step, -(-num_groups // step) * step


def groups_of_update(num_cases: int, num_groups: int, seed: int, update: int) -> list[Group]:
    """Give all groups of an update, of all ranks.

    An epoch is a permutation of the cases cut into updates without overlap; cases that do not fill an update sit out
    until the next permutation, so one update never holds a case twice.
    """
    updates_per_epoch = num_cases // num_groups
    epoch, row = divmod(update, updates_per_epoch)
    order = sorted(range(num_cases), key=lambda case: seed_of("epoch", seed, epoch, case))
    chosen = order[row * num_groups : (row + 1) * num_groups]
    return [Group(slot, case) for slot, case in enumerate(chosen)]


def share_of_rank(rows: list[T], rank: int, world_size: int) -> list[T]:
    """Give a rank its contiguous share of an update's samples; `check_geometry` has made the shares equal."""
    per_rank = len(rows) // world_size
    return rows[rank * per_rank : (rank + 1) * per_rank]


class CaseBook(Sequence[Condition]):
    """Indexes cases; `book[i]` is the cached condition of case i.

    Encoded at first use: a short run over many cases pays only for those it sees. cache: where encodings lie, shared with
    other ranks, runs and `sample`; None keeps all of them in memory.
    """

    def __init__(self, base: Base, cases: Sequence[Case], size: VideoSize, cache: ConditionsCache | None = None):
        self.base, self.cases, self.size = base, list(cases), size
        self.cache = cache or ConditionsCache(max_items=max(len(self.cases), 1))
        self._references: dict[int, list[Tensor]] = {}
        self._keys: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.cases)

    def references(self, index: int) -> list[Tensor]:
        """Give the first image of each reference, uint8 [3, height, width], in the case's order."""
        if index not in self._references:
            self._references[index] = read_references(self.cases[index])
        return self._references[index]

    def encode_all(self, world: World) -> None:
        """Encode every case now, each by one rank where the cache lies on disk; needs no transformer."""
        own = range(world.rank, len(self), world.size) if self.cache.folder is not None else range(len(self))
        with progress(len(own), "encode cases", unit="case", shown=world.is_main) as bar:
            for index in own:
                self[index]
                bar.advance(1)
        world.barrier()

    def __getitem__(self, index: int) -> Condition:  # type: ignore[override]
        known = self.cache.get(self._keys[index], self.size) if index in self._keys else None
        if known is None:
            with torch.no_grad():
                known = encode_case(
                    self.base, self.cases[index], self.size, self.cache, lambda _: self.references(index)
                )
            self._keys[index] = known.key
        return known

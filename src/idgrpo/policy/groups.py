"""Which cases an update uses, and which rank rolls them out: index-based, a pure function of (seed, update, rank)."""

from dataclasses import dataclass

from idgrpo.errors import UsageError
from idgrpo.run.draws import seed_of


@dataclass(frozen=True)
class Group:
    """One group of an update: `slot` counts the groups of the update over all ranks, `case` indexes the cases."""

    slot: int
    case: int


def check_geometry(num_cases: int, num_groups: int, world_size: int) -> None:
    """Refuse what cannot be spread evenly, with the arithmetic and the nearest valid values."""
    if num_groups > num_cases:
        raise UsageError(
            f"{num_groups} groups per update need {num_groups} different cases, but there are {num_cases}",
            fix=f"--set group.num_cases={num_cases}, or give more cases",
        )
    if num_groups % world_size:
        lower, upper = num_groups // world_size * world_size, -(-num_groups // world_size) * world_size
        nearest = f"{lower} or {upper}" if lower else f"{upper}"
        raise UsageError(
            f"{num_groups} groups do not divide over {world_size} ranks ({num_groups} % {world_size} = "
            f"{num_groups % world_size}): ranks would have unequal rows and hang",
            fix=f"--set group.num_cases={nearest}",
        )


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


def groups_of_rank(groups: list[Group], rank: int, world_size: int) -> list[Group]:
    """Give a rank its contiguous share; `check_geometry` has made the shares equal."""
    per_rank = len(groups) // world_size
    return groups[rank * per_rank : (rank + 1) * per_rank]

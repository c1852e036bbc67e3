"""The order in which pairs are drawn over a run: how human and automatic pairs are mixed."""

import math
import random
from collections.abc import Iterator, Sequence

from idgrpo.errors import DataError

MIXES = ("all", "cosine", "random", "human-only", "synthetic-only")


def synthetic_share(mix: str, progress: float, random_share: float = 0.5) -> float:
    """Return the probability that a draw at `progress` in [0, 1) is an automatic pair.

    cosine: alpha = 0.5 (1 + cos(pi t / T)), from 1 to 0, so that training ends on human pairs.
    Source: Identity-GRPO (arXiv 2510.14256), section on the reward model.
    """
    if mix == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return {"random": random_share, "human-only": 0.0, "synthetic-only": 1.0}[mix]


def draw_order(sources: Sequence[str], num_draws: int, *, mix: str, seed: int, random_share: float = 0.5) -> list[int]:
    """Return the index of the pair of every draw of a run; the same arguments give the same order.

    Inside one source, pairs come in shuffled rounds: none comes a second time before all came once. Everything that
    is not `human` counts as automatic. `all` draws from one pool, sources as they come.

    Raises:
        DataError: the mix needs a source that the data does not have.
    """
    rng = random.Random(f"draw-order:{seed}")
    human = [i for i, source in enumerate(sources) if source == "human"]
    synthetic = [i for i, source in enumerate(sources) if source != "human"]
    if mix == "all":
        pool = _rounds(range(len(sources)), rng)
        return [next(pool) for _ in range(num_draws)]
    needed = {"cosine": (human, synthetic), "random": (human, synthetic), "human-only": (human,)}
    if not all(needed.get(mix, (synthetic,))):
        raise DataError(
            f"mix {mix} needs pairs that are not there: {len(human)} human and {len(synthetic)} automatic training pairs",
            fix="use data.mix=all",
        )
    humans, automatic = _rounds(human, rng), _rounds(synthetic, rng)
    order = []
    for draw in range(num_draws):
        share = synthetic_share(mix, draw / num_draws, random_share)
        order.append(next(automatic if rng.random() < share else humans))
    return order


def _rounds(indices: Sequence[int], rng: random.Random) -> Iterator[int]:
    while indices:
        yield from rng.sample(indices, len(indices))

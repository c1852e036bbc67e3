"""Which steps of a rollout are stochastic: a pure function of (seed, update), so one window serves all groups."""

from idgrpo.policy.config import WindowConfig
from idgrpo.run.draws import seed_of


def window_steps(config: WindowConfig, seed: int, update: int) -> tuple[int, ...]:
    """Give the sorted indices of the stochastic steps of an update.

    `random`: a contiguous window at a random place; `scatter`: any `size` steps of the range; `slide`: moves by `stride`
    and wraps (MixGRPO, arXiv 2507.21802); `fixed`: the first `size` steps of the range. `every` updates share a window.
    """
    num_places = config.last - config.first - config.size + 1
    move = update // config.every
    if config.move == "scatter":
        steps = range(config.first, config.last)
        return tuple(sorted(sorted(steps, key=lambda step: seed_of("window", seed, move, step))[: config.size]))
    if config.move == "random":
        start = seed_of("window", seed, move) % num_places
    elif config.move == "slide":
        start = (move * config.stride) % num_places
    else:
        start = 0
    return tuple(range(config.first + start, config.first + start + config.size))

"""Frames in time: which stored frame is on screen at each tick of a constant rate. Pure functions of time stamps."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median

# Time stamps may leave an even grid by this share of a frame, from the earliest to the latest: rounded stamps (Matroska
# counts milliseconds) and 3:2 pulldown stay below it.
MAX_JITTER = 0.5
MAX_RATE_DRIFT = 0.25  # frames over the whole clip between its stated rate and its time stamps
MAX_STRETCH = 20  # ticks for each stored frame
MAX_RATE = 1000


@dataclass(frozen=True)
class Timeline:
    """A constant rate in frames per second, and for each of its frames the number of the stored frame that is shown."""

    fps: float
    shown: tuple[int, ...]


def timeline(times: Sequence[Fraction], stated_rate: Fraction | None) -> Timeline:
    """Lay frames on a constant rate.

    Even time stamps keep every frame once, at the stated rate where it agrees with them. Uneven ones (screen recordings,
    phones that drop frames, pauses) are sampled at the most common rate, the median of the distances: each frame appears at
    the tick nearest to its time and stays until the next one, so that a pause stays a pause.

    Args:
        times: seconds, rising, of the frames in the order shown; at least one.

    Errors: ValueError with the reason, for times that do not rise, rates beyond 1000 and pauses too long to be filled.
    """
    num, steps = len(times), [after - before for before, after in pairwise(times)]
    if any(step <= 0 for step in steps):
        raise ValueError("its time stamps do not rise")
    if num == 1:
        return Timeline(float(stated_rate or 1), (0,))
    mean = (times[-1] - times[0]) / (num - 1)
    drift = [time - times[0] - index * mean for index, time in enumerate(times)]
    if max(drift) - min(drift) <= MAX_JITTER * mean:
        agrees = stated_rate and abs(stated_rate * mean - 1) * num <= MAX_RATE_DRIFT
        return Timeline(_rate(stated_rate if agrees and stated_rate else 1 / mean), tuple(range(num)))
    step = median(steps)
    ticks = int((times[-1] - times[0]) / step) + 1
    if ticks > MAX_STRETCH * num:
        raise ValueError(
            f"a pause of {float(max(steps)):.3g} s stands between frames that are {float(step):.3g} s apart"
        )
    shown, index = [], 0
    for tick in range(ticks):
        # To the nearest tick: stamps that are rounded up still count for their own one, and the last frame is not lost.
        while index + 1 < num and times[index + 1] - times[0] <= (tick + Fraction(1, 2)) * step:
            index += 1
        shown.append(index)
    return Timeline(_rate(1 / step), tuple(shown))


def _rate(rate: Fraction) -> float:
    if rate > MAX_RATE:
        raise ValueError(f"{float(rate):.6g} frames a second are no clip")
    return float(rate)

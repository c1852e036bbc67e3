from fractions import Fraction

import pytest

from idgrpo.video.timeline import MAX_STRETCH, timeline


def ticks(*thousandths):
    return [Fraction(value, 1000) for value in thousandths]


@pytest.mark.parametrize(
    "times, rate, fps",
    [
        ([Fraction(k, 16) for k in range(33)], 16, 16.0),
        (ticks(0, 63, 125, 188, 250, 313), 16, 16.0),  # Matroska rounds to milliseconds
        (ticks(0, 42, 83, 125, 167, 209, 250), Fraction(24000, 1001), 24000 / 1001),
        ([Fraction(k, 60) for k in (0, 2, 5, 7, 10, 12, 15)], 24, 24.0),  # 3:2 pulldown
        ([Fraction(k, 16) for k in range(9)], Fraction(144, 10), 16.0),  # the last frame is said to last longer
        ([Fraction(3, 2) + Fraction(k, 25) for k in range(5)], None, 25.0),  # it does not begin at 0
    ],
)
def test_even_frames_stay_as_they_are(times, rate, fps):
    found = timeline(times, Fraction(rate) if rate else None)
    assert found.shown == tuple(range(len(times)))
    assert found.fps == pytest.approx(fps, rel=1e-9)


def test_a_pause_stays_a_pause():
    found = timeline(ticks(0, 40, 80, 120, 700, 740, 780, 820), Fraction(10))
    assert found.fps == 25.0
    assert found.shown == (0, 1, 2, *[3] * 14, 4, 5, 6, 7)
    assert len(found.shown) == 21, "0.82 s and one frame at 25 frames a second"


def test_dropped_frames_are_held_and_doubled_ones_left_out():
    grid = [Fraction(k, 30) for k in range(20)]
    dropped = [time for index, time in enumerate(grid) if index not in (5, 6, 13)]
    assert timeline(dropped, None).shown == (*range(5), 4, 4, *range(5, 11), 10, *range(11, 17))
    burst = sorted([*grid, grid[9] + Fraction(1, 90), grid[9] + Fraction(2, 90)])
    found = timeline(burst, None)
    assert found.fps == 30.0 and len(found.shown) == 20 and found.shown[-1] == 21


def test_one_frame_has_the_rate_that_is_stated():
    assert timeline([Fraction(3)], Fraction(24)).fps == 24.0
    assert timeline([Fraction(3)], None).shown == (0,)


@pytest.mark.parametrize(
    "times, reason",
    [
        (ticks(0, 40, 40, 80), "do not rise"),
        (ticks(0, 40, 80, 10_000_000), "a pause of 1e"),
        ([Fraction(k, 10**6) for k in range(5)], "frames a second are no clip"),
    ],
)
def test_times_that_make_no_clip_are_refused(times, reason):
    with pytest.raises(ValueError, match=reason):
        timeline(times, None)


def test_the_longest_pause_that_is_filled():
    times = [Fraction(k, 10) for k in range(9)]
    times.append(times[-1] + Fraction(MAX_STRETCH * 10 - 9, 10))
    assert len(timeline(times, None).shown) == MAX_STRETCH * 10
    with pytest.raises(ValueError, match="pause"):
        timeline([*times[:-1], times[-1] + Fraction(1, 10)], None)

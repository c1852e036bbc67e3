"""Time left, whatever a step takes; phases; what is shown without a terminal and on one."""

import io

import pytest

from idgrpo.run import progress as module
from idgrpo.run.progress import ProgressBar, duration, progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_slow_steps_have_a_time_left(clock):
    """Steps of ten minutes: a window of 30 seconds knows of none."""
    bar = ProgressBar(20, "train", "update")
    assert bar.eta_s() is None
    for _ in range(3):
        clock.now += 600
        bar.advance()
    assert bar.eta_s() == pytest.approx(17 * 600)
    clock.now += 240  # within the next step
    assert bar.eta_s() == pytest.approx(17 * 600 - 240)
    clock.now += 5000  # a step that hangs: not less than the others need
    assert bar.eta_s() == pytest.approx(16 * 600)


def test_speed_is_that_of_the_last_steps_and_not_of_an_earlier_run(clock):
    bar = ProgressBar(200, "train", "update")
    bar.advance(100)  # what was done before a resume
    assert bar.eta_s() is None
    for _ in range(30):
        clock.now += 100
        bar.advance()
    for _ in range(20):
        clock.now += 10
        bar.advance()
    assert bar.eta_s() == pytest.approx(50 * 10)


def test_a_long_step_says_its_phase_without_a_terminal(clock, capsys):
    bar = ProgressBar(4, "train-policy", "update")
    clock.now += 60
    bar.advance(reward="1.5 (last 1: 1.5)")
    clock.now += 60
    bar.phase("rollout")
    clock.now += 60
    bar.phase("score")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "train-policy: 1/4 update, score, 120 s left reward 1.5 (last 1: 1.5)".replace("120 s", "2 min")
    assert "rollout" in lines[-2]


def test_the_bar_of_a_terminal_shows_time_left_and_phase(monkeypatch):
    from rich.console import Console

    bar = module._RichBar(10, "train", "update")
    bar.rich = type(bar.rich)(*bar.rich.columns, console=Console(width=120, record=True, file=io.StringIO()))
    bar.task = bar.rich.add_task("train", total=10, figures="", doing="")
    bar._recent.extend([(0.0, 0), (60.0, 1)])
    bar._recent.popleft()
    bar.done = 1
    bar.phase("replay")
    monkeypatch.setattr(bar, "eta_s", lambda: 540.0)
    bar.rich.console.print(bar.rich.get_renderable())
    shown = bar.rich.console.export_text()
    assert "9 min left" in shown and "replay" in shown


@pytest.mark.parametrize(("seconds", "text"), [(42, "42 s"), (89, "89 s"), (720, "12 min"), (11100, "3 h 05 min")])
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_a_rank_that_works_in_step_with_the_main_one_shows_nothing(clock, capsys):
    with progress(2, "train-policy", "update", shown=False) as bar:
        clock.now += 60
        bar.advance(1)
        bar.phase("rollout")
        clock.now += 60
        bar.advance(1)
    assert bar.done == 2 and capsys.readouterr().err == ""

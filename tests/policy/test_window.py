import pytest
from pydantic import ValidationError

from idgrpo.policy.config import RolloutConfig, WindowConfig
from idgrpo.policy.schedule import window_steps


@pytest.mark.parametrize("move", ["random", "slide", "fixed", "scatter"])
def test_window_stays_in_range_and_is_pure(move):
    config = WindowConfig(size=2, first=1, last=6, move=move)
    for update in range(40):
        steps = window_steps(config, 5, update)
        assert len(steps) == 2 and list(steps) == sorted(set(steps))
        assert all(1 <= step < 6 for step in steps)
        assert steps == window_steps(config, 5, update)


def test_random_window_visits_every_place_and_depends_on_the_seed():
    config = WindowConfig(size=2, first=0, last=5)
    seen = {window_steps(config, 0, update) for update in range(60)}
    assert seen == {(0, 1), (1, 2), (2, 3), (3, 4)}
    assert [window_steps(config, 0, u) for u in range(20)] != [window_steps(config, 1, u) for u in range(20)]


def test_slide_moves_by_stride_every_n_updates_and_wraps():
    config = WindowConfig(size=2, first=0, last=5, move="slide", every=2, stride=3)
    starts = [window_steps(config, 0, update)[0] for update in range(8)]
    assert starts == [0, 0, 3, 3, 2, 2, 1, 1]


def test_last_step_cannot_be_stochastic():
    with pytest.raises(ValidationError, match="nearest valid: window.last=7"):
        RolloutConfig(num_steps=8, window=WindowConfig(size=2, last=8))


def test_window_larger_than_its_range_is_refused():
    with pytest.raises(ValidationError, match="nearest valid: window.size=3"):
        WindowConfig(size=4, first=2, last=5)

import pytest
import torch

from idgrpo.flow.schedule import sigma_max_of, wan_sigmas


def test_table_starts_at_one_falls_and_ends_at_zero():
    sigmas = wan_sigmas(25, 3.0)
    assert sigmas.shape == (26,)
    assert sigmas[0] == 1.0
    assert sigmas[-1] == 0.0
    assert bool((sigmas.diff() < 0).all())


def test_table_equals_a_plain_restatement():
    num_steps, shift = 10, 5.0
    for index, sigma in enumerate(wan_sigmas(num_steps, shift)[:-1]):
        u = 1.0 + index * (0.001 - 1.0) / num_steps
        assert float(sigma) == pytest.approx(shift * u / (1 + (shift - 1) * u), abs=1e-12)


def test_table_is_not_the_one_of_diffusers_which_shifts_twice():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    assert (scheduler.sigmas.double() - wan_sigmas(10, 3.0)).abs().max() > 0.05


def test_shift_one_is_linear():
    assert torch.allclose(wan_sigmas(4, 1.0)[:-1], torch.linspace(1, 0.001, 5, dtype=torch.float64)[:-1])


@pytest.mark.parametrize(("num_steps", "shift"), [(0, 3.0), (-1, 3.0), (5, 0.0), (5, -1.0), (5, float("nan"))])
def test_impossible_tables_are_refused(num_steps, shift):
    with pytest.raises(ValueError, match=r"num_steps|shift"):
        wan_sigmas(num_steps, shift)


def test_sigma_max_is_the_second_sigma():
    sigmas = wan_sigmas(8, 3.0)
    assert sigma_max_of(sigmas) == float(sigmas[1]) < 1
    assert sigma_max_of(wan_sigmas(1, 3.0)) == 1.0

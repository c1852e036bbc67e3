import math

import pytest
import torch

from idgrpo.errors import UsageError
from idgrpo.flow import SOLVERS
from idgrpo.flow.schedule import wan_sigmas
from idgrpo.flow.solver import solver_named

MEAN, SCALE = 0.7, 0.4


def velocity(x, s):
    """Give the optimal velocity of data N(MEAN, SCALE^2): E[noise - x0 | x]."""
    variance = (1 - s) ** 2 * SCALE**2 + s**2
    centred = x - (1 - s) * MEAN
    return (s - (1 - s) * SCALE**2) / variance * centred - MEAN


def exact(x1):
    """Give where the ODE takes pure noise: the affine map of N(0, 1) onto the data."""
    return MEAN + SCALE * x1


def error(name, num_steps):
    x1 = torch.linspace(-2, 2, 9, dtype=torch.float64).float()
    x, solver, sigmas = x1, solver_named(name), wan_sigmas(num_steps, 3.0)
    for s, s_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = solver.step(x, velocity(x, float(s)), float(s), float(s_next))
    return float((x - exact(x1)).abs().max())


@pytest.mark.parametrize("name", SOLVERS)
def test_more_steps_come_closer(name):
    assert error(name, 64) < error(name, 16) < error(name, 4)


def test_second_order_needs_fewer_steps():
    assert error("second-order", 12) < error("euler", 24)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("second-order", 2)])
def test_order_of_convergence(name, order):
    measured = math.log2(error(name, 40) / error(name, 80))
    assert measured > order - 0.35


def test_first_step_is_first_order_for_both():
    x = torch.ones(3)
    a = solver_named("euler").step(x, torch.full((3,), 0.5), 1.0, 0.9)
    b = solver_named("second-order").step(x, torch.full((3,), 0.5), 1.0, 0.9)
    assert torch.allclose(a, b, atol=1e-6)


def test_each_trajectory_has_its_own_memory():
    assert solver_named("second-order") is not solver_named("second-order")


def test_unknown_solver_names_the_known():
    with pytest.raises(UsageError, match="euler, second-order"):
        solver_named("heun")

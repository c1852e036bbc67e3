import math

import pytest
import torch

from idgrpo.errors import UsageError
from idgrpo.flow import LAWS
from idgrpo.flow.laws import euler_step, law_named, log_prob, stochastic_step
from idgrpo.flow.schedule import sigma_max_of, wan_sigmas

SHAPE = (3, 2, 2, 4, 4)


@pytest.fixture
def state():
    draws = torch.Generator().manual_seed(0)
    return torch.randn(SHAPE, generator=draws), torch.randn(SHAPE, generator=draws)


def closed_form(law: str, x: float, v: float, s: float, s_next: float, smax: float) -> tuple[float, float]:
    """Give mean and std of one step of one number, each law as its authors write it, in Python's own floats."""
    dt = s_next - s
    if law == "cps":
        std = s_next * math.sin(0.7 * math.pi / 2)
        x0, x1 = x - s * v, x + (1 - s) * v
        return (1 - s_next) * x0 + math.sqrt(s_next**2 - std**2) * x1, std
    if law == "dance":  # DanceGRPO: drift minus half the squared level times the score
        score = -(x - (x - s * v) * (1 - s)) / s**2
        return x + v * dt - 0.5 * 0.3**2 * score * dt, 0.3 * math.sqrt(-dt)
    capped = min(s, smax)
    level = smax * s if law == "wan" else 0.7 * math.sqrt(capped / (1 - capped))
    mean = x * (1 + level**2 * dt / (2 * s)) + v * (1 + level**2 * (1 - s) / (2 * s)) * dt
    return mean, level * math.sqrt(-dt)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shift", [1.0, 3.0, 16.0])
@pytest.mark.parametrize("num_steps", [8, 25])
def test_every_step_of_a_schedule_has_the_closed_mean_std_and_density(law, shift, num_steps):
    sigmas = wan_sigmas(num_steps, shift)
    smax = sigma_max_of(sigmas)
    numbers = torch.randn(3, 5, generator=torch.Generator().manual_seed(4))
    x, v, noise = (row.view(5, 1, 1, 1, 1) for row in numbers)
    for s, s_next in zip(sigmas[:-2].tolist(), sigmas[1:-1].tolist(), strict=True):
        mean, std = stochastic_step(law, x, v, s, s_next, sigma_max=smax)
        x_next = mean + std * noise
        density = log_prob(x_next, mean, std)
        for index in range(5):
            place = (index, 0, 0, 0, 0)
            expected, level = closed_form(law, float(x[place]), float(v[place]), s, s_next, smax)
            assert float(mean[place]) == pytest.approx(expected, rel=1e-5, abs=2e-6)
            assert float(std.flatten()[0]) == pytest.approx(level, rel=1e-5)
            exact = -0.5 * float(noise[place]) ** 2 - math.log(level) - 0.5 * math.log(2 * math.pi)
            assert float(density[index]) == pytest.approx(exact, rel=1e-5, abs=2e-4)  # noise read back in float32


def test_wan_law_equals_the_published_formula(state):
    x, v = state
    s, s_next, smax = 0.8, 0.7, 0.95
    mean, std = stochastic_step("wan", x, v, s, s_next, sigma_max=smax)
    level, dt = smax * s, s_next - s
    expected = x * (1 + level**2 * dt / (2 * s)) + v * (1 + level**2 * (1 - s) / (2 * s)) * dt
    assert torch.allclose(mean, expected, atol=1e-6)
    assert float(std) == pytest.approx(level * math.sqrt(-dt), rel=1e-6)


def test_wan_law_with_a_floor_adds_it_at_low_noise(state):
    x, v = state
    _, std = stochastic_step("wan", x, v, 0.5, 0.4, sigma_max=0.9, sigma_min=0.1)
    assert float(std) == pytest.approx((0.1 + 0.8 * 0.5) * math.sqrt(0.1), rel=1e-5)


def test_flow_law_equals_the_published_formula(state):
    x, v = state
    s, s_next, eta = 0.6, 0.5, 0.7
    mean, std = stochastic_step("flow", x, v, s, s_next, sigma_max=0.95, eta=eta)
    level, dt = eta * math.sqrt(s / (1 - s)), s_next - s
    expected = x * (1 + level**2 / (2 * s) * dt) + v * (1 + level**2 * (1 - s) / (2 * s)) * dt
    assert torch.allclose(mean, expected, atol=1e-6)
    assert float(std) == pytest.approx(level * math.sqrt(-dt), rel=1e-6)


def test_dance_law_equals_the_score_form(state):
    x, v = state
    s, s_next, eta = 0.6, 0.5, 0.3
    mean, std = stochastic_step("dance", x, v, s, s_next, sigma_max=0.95, eta=eta)
    dt, x0 = s_next - s, x - s * v
    score = -(x - x0 * (1 - s)) / s**2
    assert torch.allclose(mean, x + v * dt - 0.5 * eta**2 * score * dt, atol=1e-6)
    assert float(std) == pytest.approx(eta * math.sqrt(-dt), rel=1e-6)


def test_cps_law_keeps_the_noise_level_of_the_next_sigma(state):
    x, v = state
    s, s_next, eta = 0.6, 0.5, 0.4
    mean, std = stochastic_step("cps", x, v, s, s_next, sigma_max=0.95, eta=eta)
    x0, x1 = x - s * v, x + (1 - s) * v
    level = s_next * math.sin(eta * math.pi / 2)
    assert torch.allclose(mean, (1 - s_next) * x0 + math.sqrt(s_next**2 - level**2) * x1, atol=1e-6)
    assert float(std) == pytest.approx(level, rel=1e-6)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shift", [1.0, 3.0, 16.0])
def test_std_stays_small_along_every_schedule_even_from_pure_noise(law, shift, state):
    # The `flow` law has no bound where sigma is almost 1: the guard must hold for 1 and for 0.999999 alike.
    x, v = state
    sigmas = wan_sigmas(25, shift)
    for first in (1.0, 0.999999):
        table = sigmas.clone()
        table[0] = first
        for s, s_next in zip(table[:-1], table[1:], strict=True):
            mean, std = stochastic_step(law, x, v, float(s), float(s_next), sigma_max=sigma_max_of(table))
            assert torch.isfinite(mean).all()
            assert 0 <= float(std) < 2


@pytest.mark.parametrize("law", LAWS)
def test_last_step_is_the_euler_step_without_noise(law, state):
    x, v = state
    mean, std = stochastic_step(law, x, v, 0.3, 0.0, sigma_max=0.95)
    assert torch.equal(mean, euler_step(x, v, 0.3, 0.0))
    assert float(std.abs().max()) == 0.0


@pytest.mark.parametrize("law", LAWS)
def test_no_strength_is_the_deterministic_ode(law, state):
    x, v = state
    mean, std = stochastic_step(law, x, v, 0.6, 0.4, sigma_max=0.95, eta=0.0)
    assert torch.allclose(mean, euler_step(x, v, 0.6, 0.4), atol=1e-6)
    assert float(std.max()) == 0.0


@pytest.mark.parametrize("law", LAWS)
def test_a_batch_of_sigmas_equals_its_samples_alone(law, state):
    x, v = state
    sigma, sigma_next = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.8, 0.3, 0.0])
    mean, std = stochastic_step(law, x, v, sigma, sigma_next, sigma_max=0.95)
    for index in range(3):
        alone = stochastic_step(
            law,
            x[index : index + 1],
            v[index : index + 1],
            sigma[index : index + 1],
            sigma_next[index : index + 1],
            sigma_max=0.95,
        )
        assert torch.equal(mean[index], alone[0][0])
        assert torch.equal(std[index], alone[1][0])


@pytest.mark.parametrize("law", LAWS)
def test_marginal_is_kept_on_gaussian_data(law):
    # For data N(0, 1) the optimal velocity is linear: v = (2 s - 1) x / ((1 - s)^2 + s^2). Whatever the law adds as
    # noise, x' must have the variance (1 - s')^2 + s'^2 up to the discretisation of one small step.
    draws = torch.Generator().manual_seed(1)
    s, s_next = 0.6, 0.59
    x = torch.randn(400_000, generator=draws) * math.sqrt((1 - s) ** 2 + s**2)
    x = x.reshape(1, 1, 1, 1, -1)
    v = (2 * s - 1) * x / ((1 - s) ** 2 + s**2)
    mean, std = stochastic_step(law, x, v, s, s_next, sigma_max=0.95)
    x_next = mean + std * torch.randn(x.shape, generator=draws)
    expected = (1 - s_next) ** 2 + s_next**2
    # `cps` replaces part of the *predicted* noise, whose variance is below 1: it loses some by design.
    tolerance = 0.15 if law == "cps" else 0.01
    assert float(x_next.var()) == pytest.approx(expected, rel=tolerance)


def test_gradient_flows_through_the_mean(state):
    x, v = state
    v.requires_grad_()
    mean, std = stochastic_step("wan", x, v, 0.8, 0.7, sigma_max=0.95)
    log_prob(mean.detach() + std, mean, std).sum().backward()
    assert float(v.grad.abs().max()) > 0


def test_log_prob_is_the_mean_gaussian_density():
    draws = torch.Generator().manual_seed(2)
    mean, x = torch.randn(SHAPE, generator=draws), torch.randn(SHAPE, generator=draws)
    std = torch.full((3, 1, 1, 1, 1), 0.37)
    expected = torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(x).flatten(1).mean(1)
    assert torch.allclose(log_prob(x, mean, std), expected, atol=1e-5)


def test_mask_leaves_reference_slots_out():
    draws = torch.Generator().manual_seed(3)
    mean, x = torch.randn(SHAPE, generator=draws), torch.randn(SHAPE, generator=draws)
    mask = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1, 1).expand(3, 1, 2, 1, 1)
    alone = log_prob(x[:, :, 1:], mean[:, :, 1:], torch.tensor(0.5))
    assert torch.allclose(log_prob(x, mean, torch.tensor(0.5), mask), alone, atol=1e-6)


def test_a_deterministic_step_has_no_density(state):
    x, _ = state
    with pytest.raises(ValueError, match="deterministic"):
        log_prob(x, x, torch.zeros(3, 1, 1, 1, 1))


@pytest.mark.parametrize(("sigma", "sigma_next"), [(0.5, 0.5), (0.5, 0.6), (1.2, 0.5), (0.0, -0.1), (0.5, -0.1)])
def test_sigmas_that_do_not_fall_are_refused(sigma, sigma_next, state):
    x, v = state
    with pytest.raises(ValueError, match="sigmas"):
        stochastic_step("wan", x, v, sigma, sigma_next, sigma_max=0.9)


def test_flow_law_refuses_a_sigma_max_of_one(state):
    x, v = state
    with pytest.raises(ValueError, match="sigma_max"):
        stochastic_step("flow", x, v, 1.0, 0.9, sigma_max=1.0)


def test_unknown_law_names_the_known():
    with pytest.raises(UsageError, match="wan, flow, dance, cps"):
        law_named("wann")


def test_a_new_law_is_one_function_and_one_line(monkeypatch):
    import sys
    import types

    from idgrpo.flow import LAWS
    from idgrpo.flow.laws import default_eta

    def level_std(sigma, sigma_next, sigma_max, eta=0.5):
        return eta * torch.sqrt(sigma)

    module = types.ModuleType("a_law")
    module.level_std = level_std
    monkeypatch.setitem(sys.modules, "a_law", module)
    monkeypatch.setitem(LAWS.house, "level", "a_law:level_std")
    assert default_eta("level") == 0.5
    from idgrpo.bases.config import SamplerConfig

    assert SamplerConfig(law="level", eta=0.2).law == "level"
    x = torch.ones(1, 2)
    _, std = stochastic_step("level", x, x, 0.64, 0.39, sigma_max=0.9)
    assert float(std) == pytest.approx(0.5 * 0.8 * 0.5)


@pytest.mark.parametrize("law", ["wan", "flow", "dance", "cps"])
def test_no_step_waits_for_the_device(law):
    """Under fake tensors of a GPU anything that looks at a value stops the code; so would the GPU wait for it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, v = (torch.empty(2, 16, 3, 4, 4, device="cuda") for _ in range(2))
        sigma, sigma_next = (torch.empty(2, device="cuda") for _ in range(2))
        mean, std = stochastic_step(law, x, v, sigma, sigma_next, sigma_max=0.95)
        density = log_prob(x, mean, std, torch.empty(2, 1, 3, 1, 1, device="cuda"))
        assert euler_step(x, v, sigma, sigma_next).device == density.device == x.device

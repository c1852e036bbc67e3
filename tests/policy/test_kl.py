import pytest
import torch

from idgrpo.policy.replay import gaussian_kl


def test_kl_closed_form_against_torch_distributions():
    g = torch.Generator().manual_seed(1)
    mean, reference = torch.randn(2, 4, 3, 2, 2, generator=g), torch.randn(2, 4, 3, 2, 2, generator=g)
    std = torch.tensor([0.3, 0.7]).reshape(2, 1, 1, 1, 1)
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(reference, std)
    )
    torch.testing.assert_close(gaussian_kl(mean, reference, std), exact.flatten(1).mean(1))


def test_kl_gradient_flows_and_vanishes_only_at_the_reference():
    reference = torch.zeros(1, 2, 1, 2, 2)
    mean = torch.full_like(reference, 0.5, requires_grad=True)
    gaussian_kl(mean, reference, torch.tensor(0.5)).sum().backward()
    # d/dmu mean(mu^2 / (2 std^2)) = mu / std^2 / n
    assert mean.grad.flatten().tolist() == pytest.approx([0.5 / 0.25 / 8] * 8)
    same = reference.clone().requires_grad_()
    gaussian_kl(same, reference, torch.tensor(0.5)).sum().backward()
    assert same.grad.abs().sum() == 0


def test_reference_slots_do_not_count():
    mean, reference = torch.zeros(1, 2, 3, 2, 2), torch.zeros(1, 2, 3, 2, 2)
    mean[:, :, 0] = 100.0
    mask = torch.ones(1, 1, 3, 1, 1)
    mask[:, :, 0] = 0
    assert gaussian_kl(mean, reference, torch.tensor(1.0), mask).item() == 0
    mean[:, :, 1] = 1.0
    assert gaussian_kl(mean, reference, torch.tensor(1.0), mask).item() == pytest.approx(0.25)

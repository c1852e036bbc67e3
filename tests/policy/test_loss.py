import math

import pytest
import torch
from pydantic import ValidationError

from idgrpo.flow.laws import log_prob
from idgrpo.policy.config import PolicyLossConfig
from idgrpo.policy.forward import forward_step
from idgrpo.policy.loss import LossInputs, clip_loss, kl_mask_loss, nft_loss, ratio_norm_loss
from idgrpo.policy.replay import gaussian_kl


def inputs(log_ratio, advantage, shift_kl=0.0, std=0.5, clip=0.1, kl_limit=1e-3):
    log_ratio = torch.tensor(log_ratio, requires_grad=True)
    n = len(log_ratio)
    return log_ratio, LossInputs(
        log_ratio,
        torch.zeros(n),
        torch.tensor(advantage),
        torch.full((n,), shift_kl),
        torch.full((n,), std),
        clip,
        kl_limit,
    )


def test_clip_closed_form_and_gradient():
    up, down = math.log(1.3), math.log(0.7)
    leaf, given = inputs([0.0, up, up, down, down], [2.0, 2.0, -2.0, 2.0, -2.0])
    terms = clip_loss(given)
    # max(-A r, -A clamp(r)): a good sample gains nothing above 1 + eps, a bad one nothing below 1 - eps.
    assert terms.loss.tolist() == pytest.approx([-2.0, -2.2, 2.6, -1.4, 1.8])
    terms.loss.sum().backward()
    assert leaf.grad.tolist() == pytest.approx([-2.0, 0.0, 2.6, -1.4, 0.0])
    assert terms.clipped_high.tolist() == [False, True, False, False, False]
    assert terms.clipped_low.tolist() == [False, False, False, False, True]


def test_ratio_norm_removes_the_bias_and_scales_by_std():
    # A shifted mean lowers the expected log ratio by KL; adding it back gives ratio exactly 1 there.
    _, given = inputs([-0.02], [1.0], shift_kl=0.02)
    assert ratio_norm_loss(given).ratio.item() == pytest.approx(1.0)
    _, given = inputs([0.08], [1.0], shift_kl=0.02, std=0.25)
    assert ratio_norm_loss(given).ratio.item() == pytest.approx(math.exp(0.025), rel=1e-6)


def test_kl_mask_stops_only_far_pairs_that_move_on():
    leaf, given = inputs([0.2, -0.2, 0.2, -0.2], [1.0, 1.0, -1.0, -1.0], shift_kl=0.01)
    kl_mask_loss(given).loss.sum().backward()
    grad = leaf.grad.tolist()
    assert grad[0] == 0 and grad[3] == 0
    assert grad[1] == pytest.approx(-math.exp(-0.2)) and grad[2] == pytest.approx(math.exp(0.2))
    _, near = inputs([0.2], [1.0], shift_kl=1e-4)
    assert kl_mask_loss(near).loss.item() == pytest.approx(-math.exp(0.2))


def forward_pairs(beta, clamp, seed=0):
    """Velocities of four pairs in float64 and what a replay makes of them; advantages within and beyond the clamp."""
    source = torch.Generator().manual_seed(seed)
    velocity, old, clean, noise = torch.randn(4, 4, 2, 3, 4, 4, generator=source, dtype=torch.float64)
    velocity.requires_grad_()
    sigma = torch.tensor([0.2, 0.5, 0.8, 0.95], dtype=torch.float64)
    x = torch.lerp(clean, noise, sigma.reshape(-1, 1, 1, 1, 1))
    advantage = torch.tensor([1.5, -0.4, -4.9, 7.0], dtype=torch.float64)
    # The laws work in float32; these lines are `Replay.loss_of` in float64.
    std = sigma.reshape(-1, 1, 1, 1, 1)
    means = [x - std * v for v in (velocity, old)]
    axes = (1, 2, 3, 4)

    def density(mean):
        return (-((clean - mean) ** 2) / (2 * std**2) - std.log() - math.log(2 * math.pi) / 2).mean(axes)

    kl = gaussian_kl(means[0], means[1], std)
    given = LossInputs(density(means[0]), density(means[1]), advantage, kl, sigma, 1e-3, 1e-3, beta, clamp)
    return velocity, old, noise - clean, advantage, given


@pytest.mark.parametrize("beta", [0.1, 1.0, 2.0])
def test_nft_is_its_equation_in_value_and_gradient(beta):
    velocity, old, truth, advantage, given = forward_pairs(beta, clamp=5.0)
    share = (0.5 + advantage / 10).clamp(0, 1)

    def error(v):
        return (v - truth).square().mean((1, 2, 3, 4))

    good = error((1 - beta) * old + beta * velocity)
    bad = error((1 + beta) * old - beta * velocity)
    expected = 5.0 / beta * (share * good + (1 - share) * bad) / 2
    terms = nft_loss(given)
    torch.testing.assert_close(terms.loss, expected, rtol=1e-12, atol=1e-12)
    (got,) = torch.autograd.grad(terms.loss.sum(), velocity)
    # By hand: c [(2 r - 1) (v_old - u) + beta (v - v_old)] / elements.
    pull = (2 * share - 1).reshape(-1, 1, 1, 1, 1) * (old - truth) + beta * (velocity - old)
    torch.testing.assert_close(got, 5.0 * pull.detach() / truth[0].numel(), rtol=1e-10, atol=1e-13)


def test_nft_on_policy_pulls_as_advantage_weighted_matching_does():
    velocity, _, truth, advantage, given = forward_pairs(beta=0.7, clamp=10.0)
    x = torch.zeros_like(truth)
    old = given.log_prob.detach()
    kl = gaussian_kl(velocity, velocity.detach(), torch.ones_like(x[:, :1, :1, :1, :1]))
    on_policy = LossInputs(given.log_prob, old, advantage, kl, given.std, 1e-3, 1e-3, 0.7, 10.0)
    (got,) = torch.autograd.grad(nft_loss(on_policy).loss.sum(), velocity, retain_graph=True)
    matching = (velocity - truth).square().mean((1, 2, 3, 4)) / 2
    (expected,) = torch.autograd.grad((advantage * matching).sum(), velocity)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-13)


def test_nft_reads_the_density_of_forward_pairs():
    velocity, _, truth, _, given = forward_pairs(beta=1.0, clamp=5.0)
    clean = torch.zeros_like(truth, dtype=torch.float32)
    sigma = given.std.float()
    mean, std = forward_step(sigma.reshape(-1, 1, 1, 1, 1) * truth.float(), velocity.float(), sigma, 0 * sigma)
    density = log_prob(clean, mean, std)  # x = (1 - s) 0 + s noise: what float32 makes of it is what the loss is given
    torch.testing.assert_close(density, given.log_prob.float(), rtol=1e-5, atol=1e-5)


def test_nft_without_whole_clips_is_refused():
    with pytest.raises(ValidationError, match=r"set loss\.credit=forward"):
        PolicyLossConfig(name="nft")
    assert PolicyLossConfig(name="nft", credit="forward").beta == 1.0

import math

import pytest
import torch

from idgrpo.policy.loss import LossInputs, clip_loss, kl_mask_loss, ratio_norm_loss


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

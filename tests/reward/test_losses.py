"""Loss values and gradients against closed forms in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from idgrpo.errors import UsageError
from idgrpo.reward.losses import TIE, A, B, bradley_terry, davidson, load_loss, margin, rao_kupper

gaps = st.floats(-12, 12, allow_nan=False)


def _value(loss, gap: float, label: int, **settings: float) -> float:
    return float(loss(torch.tensor([gap], dtype=torch.float64), torch.tensor([label]), **settings))


@given(gap=gaps, theta=st.floats(1.01, 20))
def test_rao_kupper_probabilities_sum_to_one(gap: float, theta: float) -> None:
    total = sum(math.exp(-_value(rao_kupper, gap, label, theta=theta)) for label in (A, B, TIE))
    assert total == pytest.approx(1, abs=1e-9)


@given(gap=gaps, nu=st.floats(0.01, 20))
def test_davidson_probabilities_sum_to_one_and_match_the_ratio(gap: float, nu: float) -> None:
    first, second, tie = (math.exp(-_value(davidson, gap, label, nu=nu)) for label in (A, B, TIE))
    assert first + second + tie == pytest.approx(1, abs=1e-9)
    assert tie == pytest.approx(nu * math.sqrt(first * second), rel=1e-6)


def test_rao_kupper_published_values() -> None:
    assert _value(rao_kupper, 0.0, A) == pytest.approx(math.log(6)) == pytest.approx(1.7918, abs=1e-4)
    assert _value(rao_kupper, 0.0, TIE) == pytest.approx(math.log(1.5)) == pytest.approx(0.4055, abs=1e-4)
    turn = math.log((25 - 2) / 5)
    assert turn == pytest.approx(1.526, abs=1e-3)
    assert _value(rao_kupper, turn - 1e-6, TIE) < _value(rao_kupper, turn - 1e-6, A)
    assert _value(rao_kupper, turn + 1e-6, TIE) > _value(rao_kupper, turn + 1e-6, A)


@given(gap=gaps)
def test_gradients_in_closed_form(gap: float) -> None:
    def sig(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    log_theta = math.log(5)
    expected = {
        (rao_kupper, A): -sig(-(gap - log_theta)),
        (rao_kupper, B): sig(gap + log_theta),
        (rao_kupper, TIE): -sig(-(gap - log_theta)) + sig(gap + log_theta),
        (bradley_terry, A): -sig(-gap),
        (bradley_terry, B): sig(gap),
    }
    for (loss, label), slope in expected.items():
        d = torch.tensor([gap], dtype=torch.float64, requires_grad=True)
        loss(d, torch.tensor([label])).sum().backward()
        assert float(d.grad) == pytest.approx(slope, abs=1e-9)


def test_margin_values() -> None:
    assert [_value(margin, 0.25, label) for label in (A, B, TIE)] == [0.75, 1.25, 0.0]
    assert _value(margin, -3.0, TIE, margin=2.0) == 1.0


def test_wrong_settings_are_refused() -> None:
    for loss, settings in ((rao_kupper, {"theta": 1.0}), (davidson, {"nu": 0.0})):
        with pytest.raises(UsageError):
            _value(loss, 0.0, A, **settings)
    with pytest.raises(UsageError, match="known: rao_kupper"):
        load_loss("hinge")

"""Loss values and gradients against closed forms in float64."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from idgrpo.errors import UsageError
from idgrpo.records.models import Preference, Reference
from idgrpo.reward.data import label_code
from idgrpo.reward.losses import (
    INVALID,
    TIE,
    A,
    B,
    bradley_terry,
    davidson,
    load_loss,
    margin,
    mean_over_valid,
    rao_kupper,
)

PREFERENCE = Preference(
    pair_id="p",
    case_id="c",
    prompt="x",
    references=[Reference(person="p", images=["x.png"])],
    video_a="a.mp4",
    video_b="b.mp4",
    label="a",
    source="human",
)
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


def _sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _slope(loss, gap: float, label: int, **settings: float) -> float:
    d = torch.tensor([gap], dtype=torch.float64, requires_grad=True)
    loss(d, torch.tensor([label]), **settings).sum().backward()
    return float(d.grad)


def test_bradley_terry_values() -> None:
    assert _value(bradley_terry, 0.0, A) == _value(bradley_terry, 0.0, B) == pytest.approx(math.log(2))
    assert _value(bradley_terry, 2.0, A) == pytest.approx(math.log(1 + math.exp(-2)))
    assert _value(bradley_terry, 2.0, B) == pytest.approx(math.log(1 + math.exp(2)))
    assert _value(bradley_terry, 2.0, TIE) == _slope(bradley_terry, 2.0, TIE) == 0.0


@given(gap=gaps, nu=st.floats(0.01, 20))
def test_davidson_gradients_in_closed_form(gap: float, nu: float) -> None:
    first, second = math.exp(gap / 2), math.exp(-gap / 2)
    lean = (first - second) / (first + second + nu) / 2  # of ln(e^d/2 + e^-d/2 + nu)
    for label, slope in ((A, lean - 0.5), (B, lean + 0.5), (TIE, lean)):
        assert _slope(davidson, gap, label, nu=nu) == pytest.approx(slope, abs=1e-9)


@given(gap=gaps, margin_=st.floats(0.1, 5))
def test_margin_gradients_in_closed_form(gap: float, margin_: float) -> None:
    assume(min(abs(gap - margin_), abs(gap + margin_)) > 1e-9)
    side = math.copysign(1.0, gap)
    for label, slope in (
        (A, -1.0 if gap < margin_ else 0.0),
        (B, 1.0 if gap > -margin_ else 0.0),
        (TIE, side if abs(gap) > margin_ else 0.0),
    ):
        assert _slope(margin, gap, label, margin=margin_) == slope


@given(gap=gaps, theta=st.floats(1.01, 20))
def test_rao_kupper_gradients_at_any_theta(gap: float, theta: float) -> None:
    first, second = -_sig(math.log(theta) - gap), _sig(gap + math.log(theta))
    for label, slope in ((A, first), (B, second), (TIE, first + second)):
        assert _slope(rao_kupper, gap, label, theta=theta) == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("loss", [rao_kupper, davidson, bradley_terry, margin])
def test_invalid_pairs_count_neither_above_nor_below_the_line(loss) -> None:
    gap = torch.tensor([0.3, 7.0, -0.2, 1e4], dtype=torch.float64, requires_grad=True)
    label = torch.tensor([A, INVALID, B, INVALID])
    mean = mean_over_valid(loss(gap, label), label)
    assert float(mean) == pytest.approx((_value(loss, 0.3, A) + _value(loss, -0.2, B)) / 2)
    mean.backward()
    assert gap.grad[1] == gap.grad[3] == 0.0 and gap.grad.isfinite().all()
    assert float(mean_over_valid(loss(gap, label), label, 8)) == pytest.approx(float(mean) / 4)  # of the whole update
    nothing = torch.full_like(label, INVALID)
    assert float(mean_over_valid(loss(gap, nothing), nothing)) == 0.0


def test_labels_as_each_loss_reads_them() -> None:
    def code(label: str, loss: str = "rao_kupper", both_bad: str = "tie") -> int:
        return label_code(PREFERENCE.model_copy(update={"label": label}), loss, both_bad)

    assert [code(label) for label in ("a", "b", "tie", "both_bad")] == [A, B, TIE, TIE]
    assert [code(label, both_bad="skip") for label in ("a", "b", "tie", "both_bad")] == [A, B, TIE, INVALID]
    for both_bad in ("tie", "skip"):
        found = [code(label, "bradley_terry", both_bad) for label in ("a", "tie", "both_bad")]
        assert found == [A, INVALID, INVALID]


@given(gap=gaps)
def test_gradients_in_closed_form(gap: float) -> None:
    sig = _sig
    log_theta = math.log(5)
    expected = {
        (rao_kupper, A): -sig(-(gap - log_theta)),
        (rao_kupper, B): sig(gap + log_theta),
        (rao_kupper, TIE): -sig(-(gap - log_theta)) + sig(gap + log_theta),
        (bradley_terry, A): -sig(-gap),
        (bradley_terry, B): sig(gap),
    }
    for (loss, label), slope in expected.items():
        assert _slope(loss, gap, label) == pytest.approx(slope, abs=1e-9)


def test_margin_values() -> None:
    assert [_value(margin, 0.25, label) for label in (A, B, TIE)] == [0.75, 1.25, 0.0]
    assert _value(margin, -3.0, TIE, margin=2.0) == 1.0


def test_wrong_settings_are_refused() -> None:
    for loss, settings in ((rao_kupper, {"theta": 1.0}), (davidson, {"nu": 0.0})):
        with pytest.raises(UsageError):
            _value(loss, 0.0, A, **settings)
    with pytest.raises(UsageError, match="known: rao_kupper"):
        load_loss("hinge")

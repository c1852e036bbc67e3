"""What every registered pair loss must do: proper values, right signs, symmetry, zero for pairs that do not count."""

import pytest
import torch

from idgrpo.reward import LOSSES
from idgrpo.reward.losses import INVALID, TIE, A, B, load_loss, mean_over_valid, takes_ties

GAPS = torch.linspace(-6, 6, 25, dtype=torch.float64)


def _at(name: str, label: int, gaps: torch.Tensor = GAPS) -> torch.Tensor:
    return load_loss(name)(gaps, torch.full(gaps.shape, label))


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def test_shape_type_and_sign(self, name: str) -> None:
        for label in (A, B, TIE):
            values = _at(name, label)
            assert values.shape == GAPS.shape and values.dtype == GAPS.dtype
            assert bool((values >= 0).all()) and bool(values.isfinite().all())

    def test_a_falls_and_b_rises_with_the_gap(self, name: str) -> None:
        assert bool((_at(name, A).diff() <= 0).all()) and bool((_at(name, B).diff() >= 0).all())
        assert _at(name, A)[0] > _at(name, A)[-1]

    def test_swapping_sides_swaps_a_and_b(self, name: str) -> None:
        torch.testing.assert_close(_at(name, A, -GAPS), _at(name, B))
        torch.testing.assert_close(_at(name, TIE, -GAPS), _at(name, TIE))

    def test_a_tie_wants_a_small_gap(self, name: str) -> None:
        values = _at(name, TIE)
        assert (
            bool((values == 0).all()) if not takes_ties(name) else values.argmin() == len(GAPS) // 2 or name == "margin"
        )
        assert values[0] >= values[len(GAPS) // 2]

    def test_invalid_pairs_give_no_loss_and_no_gradient(self, name: str) -> None:
        gaps = GAPS.clone().requires_grad_()
        load_loss(name)(gaps, torch.full(gaps.shape, INVALID)).sum().backward()
        assert bool((gaps.grad == 0).all())

    def test_gradient_is_the_derivative(self, name: str) -> None:
        gaps = torch.tensor([-2.3, -0.4, 0.3, 1.7], dtype=torch.float64, requires_grad=True)
        for label in (A, B, TIE):
            assert torch.autograd.gradcheck(lambda g, code=label: load_loss(name)(g, torch.full(g.shape, code)), gaps)

    def test_extreme_gaps_stay_finite(self, name: str) -> None:
        extreme = torch.tensor([-1e4, 1e4], requires_grad=True)
        for label in (A, B, TIE):
            values = _at(name, label, extreme)
            assert bool(values.isfinite().all())
            assert bool(torch.autograd.grad(values.sum(), extreme)[0].isfinite().all())

    def test_mean_is_over_valid_pairs(self, name: str) -> None:
        gaps, labels = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([A, INVALID, A])
        values = load_loss(name)(gaps, labels)
        torch.testing.assert_close(mean_over_valid(values, labels), values[0])
        torch.testing.assert_close(mean_over_valid(values, labels, torch.tensor(4)), values.sum() / 4)

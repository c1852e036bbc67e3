"""Checks for values that are not finite: in steps of denoising, in pixels, in weights.

A NaN spreads through a whole clip and becomes plain black in 8 bits; whoever decodes, saves or reads calls these first.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from idgrpo.errors import IdgrpoError

WHY = "lower the guidance or the learning rate, or use float32; an adapter that has diverged gives this with every seed"


class NotFiniteError(IdgrpoError):
    """A computation gave NaN or infinity; `rows` says for which samples of the batch."""

    def __init__(self, message: str, rows: Sequence[int] = ()):
        super().__init__(message, fix=WHY)
        self.rows = list(rows)


def finite_rows(x: Tensor) -> Tensor:
    """Tell for each sample of a batch whether all its values are finite: bool [batch], without waiting for the device."""
    return torch.isfinite(x).flatten(1).all(dim=1)


def require_finite_rows(x: Tensor, what: str, labels: Sequence[str] | None = None) -> None:
    """Raise NotFiniteError that names the first sample of `x` [batch, ...] that is not finite. One wait for the device."""
    if isinstance(x, FakeTensor):  # a simulation of memory has no values
        return
    rows = [row for row, is_finite in enumerate(finite_rows(x).tolist()) if not is_finite]
    if rows:
        label = labels[rows[0]] if labels else f"sample {rows[0] + 1} of the batch"
        raise NotFiniteError(f"{label}: {what} are not finite", rows)


def require_finite_steps(finite: Sequence[Tensor], sigmas: Sequence[float], labels: Sequence[str]) -> None:
    """Raise NotFiniteError that names the first step after which a sample was not finite, and the sample.

    finite: one `finite_rows` per step that was made; sigmas: the noise level each of all steps starts from.
    """
    if not finite or isinstance(finite[0], FakeTensor):
        return
    for step, row_flags in enumerate(torch.stack(list(finite)).tolist()):
        rows = [row for row, is_finite in enumerate(row_flags) if not is_finite]
        if rows:
            where = f"after step {step + 1} of {len(sigmas)} (sigma {sigmas[step]:.4g})"
            raise NotFiniteError(f"{labels[rows[0]]}: latents are not finite {where}", rows)


def first_not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Give the name of the first tensor that holds NaN or infinity, or None. Reads each tensor once, copies nothing."""
    for name, value in state.items():
        if value.is_floating_point() and value.numel() and not bool(torch.stack(value.aminmax()).isfinite().all()):
            return name
    return None


def require_finite_weights(state: Mapping[str, Tensor], what: str) -> None:
    """Raise NotFiniteError that names the first weight that is not finite, before `what` is written."""
    name = first_not_finite(state)
    if name is not None:
        raise NotFiniteError(f"{what} is not written: {name} is not finite")

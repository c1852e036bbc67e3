"""Muon for matrices and AdamW for the rest, with warm-up and linear cool-down: what made the tiny models learn fast."""

import torch
from torch import Tensor, nn


def orthogonalise(gradient: Tensor, num_iterations: int = 5) -> Tensor:
    """Return the nearest semi-orthogonal matrix, approximately, by a quintic Newton-Schulz iteration.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    x = gradient / (gradient.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(num_iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz; convolution kernels are seen as [out, rest] matrices."""

    def __init__(self, parameters, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                blended = parameter.grad.lerp(state["momentum"], group["momentum"])
                matrix = blended.reshape(len(blended), -1)
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(orthogonalise(matrix).reshape(parameter.shape), alpha=-group["lr"] * scale)


class TinyOptimizer:
    """Both optimizers behind one `step(progress)`; `progress` in 0..1 sets warm-up (3 %) and cool-down (last 40 %)."""

    def __init__(self, module: nn.Module, is_matrix, *, muon_lr: float, adam_lr: float, weight_decay: float = 0.0):
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if p.dim() >= 2 and is_matrix(name)]
        others = [p for name, p in named if not (p.dim() >= 2 and is_matrix(name))]
        self.parameters = matrices + others
        self.optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            self.optimizers.append(Muon(matrices, lr=muon_lr, weight_decay=weight_decay))
        self.optimizers.append(torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=weight_decay))
        self.peaks = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, progress: float, max_grad_norm: float = 1.0) -> float:
        """Update the weights and clear the gradients; returns the gradient norm before clipping."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, max_grad_norm))
        factor = min(1.0, progress / 0.03 + 1e-3, max(0.02, (1 - progress) / 0.4))
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, peak in zip(groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

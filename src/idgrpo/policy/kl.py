"""Distance between two Gaussian steps with equal std, and to the reference policy."""

from torch import Tensor


def gaussian_kl(mean: Tensor, reference_mean: Tensor, std: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute KL(N(mean, std) || N(reference_mean, std)) per element, averaged: mean (mu - mu_ref)^2 / (2 std^2).

    mean: [batch, channel, frame, height, width]; std broadcasts and includes sqrt(-dt); mask [batch, 1, frame, 1, 1] holds
    1 on video frames. Returns [batch]. The gradient flows through `mean`: a KL under no_grad punishes nothing.
    """
    squared = (mean - reference_mean).square() / (2 * std.square())
    return masked_mean(squared, mask)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Average [batch, ...] over all axes but the first, where the mask (broadcast) is 1."""
    axes = tuple(range(1, values.dim()))
    if mask is None:
        return values.mean(axes)
    mask = mask.to(values.dtype).expand_as(values)
    return (values * mask).sum(axes) / mask.sum(axes).clamp(min=1)

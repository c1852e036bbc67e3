"""Guidance as a weighted sum of branches: which branches are needed, and how their forwards are grouped."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from idgrpo.bases.contract import Guidance
from idgrpo.errors import UsageError

Forward = Callable[[Sequence[str]], list[Tensor]]
"""Runs the named branches in one batched forward and gives one velocity each."""


def vace_weights(guidance: Guidance) -> dict[str, float]:
    """Give the weights of v = uncond + w (cond - uncond)."""
    return {"uncond": 1.0 - guidance.scale, "cond": guidance.scale}


def phantom_weights(guidance: Guidance) -> dict[str, float]:
    """Give the weights of v = neg + w_image (i - neg) + w_text (it - i).

    neg: no references, negative prompt; i: references, negative prompt; it: references and prompt (Phantom,
    arXiv 2502.11079, and its published sampler). Equal scales leave i with weight 0: two branches do.
    """
    text = guidance.scale
    image = text if guidance.image_scale is None else guidance.image_scale
    return {"neg": 1.0 - image, "i": image - text, "it": text}


def branch_weights(family: str, guidance: Guidance) -> dict[str, float]:
    """Give the weights of a family's branches; families of other packages have VACE's two."""
    return (phantom_weights if family == "phantom" else vace_weights)(guidance)


def guided_velocity(weights: dict[str, float], mode: str, forward: Forward) -> Tensor:
    """Mix branches: first + sum of weight (branch - first) over those of weight not 0. Weights sum to 1.

    The last branch is the fully conditional one. Modes: see `contract.Guidance`.
    """
    names = list(weights)
    if mode == "none":
        return forward(names[-1:])[0]
    active = [name for name in names if weights[name] != 0.0]
    if mode == "both-grad" or len(active) == 1:
        outputs = forward(active)
    elif mode == "detach-uncond":
        with torch.no_grad():
            outputs = forward(active[:-1])
        outputs = [*outputs, *forward(active[-1:])]
    else:
        raise UsageError(f"unknown guidance mode '{mode}'", fix="use none, both-grad or detach-uncond")
    first = outputs[0]
    mixed = first
    for name, output in zip(active[1:], outputs[1:], strict=True):
        mixed = mixed + weights[name] * (output - first)
    return mixed


def num_branches(weights: dict[str, float], mode: str) -> int:
    """Give the number of transformer evaluations for one velocity of one sample."""
    return 1 if mode == "none" else sum(weight != 0.0 for weight in weights.values())


def amplification(family: str, guidance: Guidance) -> float:
    """Give how much larger than a forward's an error of the guided velocity can be: the sum of |weight|, 1 unguided."""
    if guidance.mode == "none":
        return 1.0
    return sum(abs(weight) for weight in branch_weights(family, guidance).values())

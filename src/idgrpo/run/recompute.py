"""Selective recomputation: keep what was dear to compute, compute the rest again in the backward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

_ATEN = torch.ops.aten
KEPT = [
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
]
"""Matrix products and attention: nearly all operations of a block, and a fraction of its activations."""


def recompute_selected(block: Callable[..., Any], *inputs: Any) -> Any:
    """Run a block so that only the outputs of KEPT survive until its backward pass; gradients are those of `block`."""
    contexts = partial(create_selective_checkpoint_contexts, KEPT)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)

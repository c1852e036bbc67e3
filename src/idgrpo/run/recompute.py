"""Selective recomputation: keep what was dear to compute and is small, compute the rest again in the backward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

_ATEN = torch.ops.aten
KEPT = [
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
]
"""Attention alone. Simulated for a replayed step of Phantom-1.3B at 416x240x33 (0.87 GiB with nothing kept, 9.9 with all): its results
take 0.7 GiB and save a quarter of the operations that are computed twice; those of the matrix products take 4.7 GiB more (and an adapter's
products, which are one in a hundred operations, 2.3 beside them). `tests/bench/test_simulation.py` prints the figures."""


def recompute_selected(block: Callable[..., Any], *inputs: Any) -> Any:
    """Run a block so that only the outputs of KEPT survive until its backward pass; gradients are those of `block`."""
    contexts = partial(create_selective_checkpoint_contexts, KEPT)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)

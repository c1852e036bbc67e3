"""A vision tower that grows: blocks are added that change nothing until they have learnt something."""

from copy import deepcopy

import torch
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

ADDED_BLOCKS = 2


@torch.no_grad()
def deepen(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Add ADDED_BLOCKS at the end of the tower, whose outputs start at zero: the model computes what it did before."""
    tower = model.model.visual
    for _ in range(ADDED_BLOCKS):
        block = deepcopy(tower.blocks[-1])
        for parameter in block.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
        for output in (block.attn.proj, block.mlp.down_proj):
            _silence(output)
        tower.blocks.append(block)
    config = model.config.vision_config
    config.depth = tower.config.depth = len(tower.blocks)
    config.fullatt_block_indexes = tower.config.fullatt_block_indexes = list(range(len(tower.blocks)))
    tower.fullatt_block_indexes = tower.config.fullatt_block_indexes


def _silence(linear: nn.Linear) -> None:
    linear.weight.zero_()
    if linear.bias is not None:
        linear.bias.zero_()

"""A model that grows: layers are added that change nothing until they have learnt something."""

from copy import deepcopy

import torch
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

ADDED = 2


def deepen_tower(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Add blocks at the end of the vision tower; the model computes what it did before."""
    tower = model.model.visual
    for _ in range(ADDED):
        block = _fresh(tower.blocks[-1])
        _silence(block.attn.proj, block.mlp.down_proj)
        tower.blocks.append(block)
    for config in (model.config.vision_config, tower.config):
        config.depth = len(tower.blocks)
        config.fullatt_block_indexes = list(range(config.depth))
    tower.fullatt_block_indexes = tower.config.fullatt_block_indexes


def deepen_language_model(model: Qwen2_5_VLForConditionalGeneration) -> list[nn.Module]:
    """Add layers before the last one, which only weighs, and return them; the model computes what it did before."""
    language = model.model.language_model
    added = [_fresh(language.layers[-1]) for _ in range(ADDED)]
    for layer in added:
        _silence(layer.self_attn.o_proj, layer.mlp.down_proj)
        language.layers.insert(len(language.layers) - 1, layer)
    for index, layer in enumerate(language.layers):
        layer.self_attn.layer_idx = index
    for config in (model.config.text_config, language.config):
        config.num_hidden_layers = len(language.layers)
        config.layer_types = config.layer_types[:1] * len(language.layers)
    return added


@torch.no_grad()
def _fresh(layer: nn.Module) -> nn.Module:
    """Return a copy of a layer with new matrices at deviation 1 / sqrt(fan-in); gains and biases stay as they have grown."""
    layer = deepcopy(layer)
    for parameter in layer.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    return layer


@torch.no_grad()
def _silence(*outputs: nn.Linear) -> None:
    for linear in outputs:
        linear.weight.zero_()
        if linear.bias is not None:
            linear.bias.zero_()

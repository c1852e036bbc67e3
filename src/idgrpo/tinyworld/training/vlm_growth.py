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
        tower.blocks.append(_idle(tower.blocks[-1], "attn.proj", "mlp.down_proj"))
    for config in (model.config.vision_config, tower.config):
        config.depth = len(tower.blocks)
        config.fullatt_block_indexes = list(range(config.depth))
    tower.fullatt_block_indexes = tower.config.fullatt_block_indexes


def deepen_language_model(model: Qwen2_5_VLForConditionalGeneration) -> list[nn.Module]:
    """Add layers before the last one, which only weighs, and return them; the model computes what it did before."""
    language = model.model.language_model
    added = [_idle(language.layers[-1], "self_attn.o_proj", "mlp.down_proj") for _ in range(ADDED)]
    for layer in added:
        language.layers.insert(len(language.layers) - 1, layer)
    for index, layer in enumerate(language.layers):
        layer.self_attn.layer_idx = index
    for config in (model.config.text_config, language.config):
        config.num_hidden_layers = len(language.layers)
        config.layer_types = config.layer_types[:1] * len(language.layers)
    return added


@torch.no_grad()
def _idle(layer: nn.Module, *outputs: str) -> nn.Module:
    """Return a copy of a layer whose matrices are new, at deviation 1 / sqrt(fan-in), and whose outputs are zero."""
    layer = deepcopy(layer)
    for parameter in layer.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    for name in outputs:
        for parameter in layer.get_submodule(name).parameters():
            parameter.zero_()
    return layer

"""What the defaults come to with this checkpoint on this machine: every `auto` and `None` in numbers, for people to read."""

import math
import re
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open

from idgrpo.reward.config import RewardModelConfig
from idgrpo.reward.inputs import InputBuilder

HEAD_ONLY_WIDTH = 512


def trained_mode(config: RewardModelConfig, width: int) -> Literal["head", "full"]:
    """Decide `auto`: tiny backbones train the head alone, which costs seconds."""
    if config.mode == "auto":
        return "head" if width <= HEAD_ONLY_WIDTH else "full"
    return config.mode


def uses_bf16(config: RewardModelConfig) -> bool:
    """Decide whether the backbone is held and run in bfloat16: on a GPU, unless told otherwise."""
    return config.full.bf16 if config.full.bf16 is not None else torch.cuda.is_available()


def uses_checkpointing(config: RewardModelConfig) -> bool:
    """Decide whether activations are computed again in the backward pass: on a GPU, unless told otherwise."""
    return (
        config.full.gradient_checkpointing
        if config.full.gradient_checkpointing is not None
        else torch.cuda.is_available()
    )


def resolve(config: RewardModelConfig, folder: Path) -> RewardModelConfig:
    """Return the configuration with mode, inputs, bf16 and checkpointing as training with the checkpoint will use them."""
    settings = InputBuilder.load(folder, **config.inputs.overrides()).settings
    inputs = {name: getattr(settings, name) for name in type(config.inputs).model_fields}
    full = {"bf16": uses_bf16(config), "gradient_checkpointing": uses_checkpointing(config)}
    return config.model_copy(
        update={
            "mode": trained_mode(config, _width(folder)),
            "inputs": config.inputs.model_copy(update=inputs),
            "full": config.full.model_copy(update=full),
        }
    )


TRAINED_BYTES = 16
"""Of a trained number: float32 weight and gradient, and AdamW's two moments."""
_LINEAR = re.compile(r"layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight$")


def memory_bytes(config: RewardModelConfig, folder: Path) -> int:
    """Count what training of a resolved configuration keeps, from the shapes in the checkpoint; activations come on top."""
    shapes = _shapes(folder)
    trained = frozen = 0
    for name, shape in shapes.items():
        part = None if "visual." not in name else "merger" if "merger" in name else "vision"
        rates = config.full.rates
        is_trained = config.mode == "full" and part is not None and getattr(rates, part) > 0
        trained, frozen = trained + is_trained * math.prod(shape), frozen + (not is_trained) * math.prod(shape)
        if config.mode == "full" and rates.lora > 0 and part is None and _LINEAR.search(name):
            trained += config.full.lora.rank * sum(shape)
    return frozen * (2 if config.full.bf16 else 4) + trained * TRAINED_BYTES


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Read the names and shapes of a checkpoint's weights, not the weights."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            found |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    return found


def setting_lines(config: RewardModelConfig) -> list[str]:
    """Tell a resolved configuration in a few lines."""
    inputs, loss, data = config.inputs, config.loss, config.data
    numbers = "".join(f", {name} {value:g}" for name, value in loss.arguments().items())
    lines = [
        f"trains  {'the head on frozen features' if config.mode == 'head' else 'the whole model'} of {config.vlm}, "
        f"seed {config.seed}, {'bfloat16' if config.full.bf16 else 'float32'} backbone",
        f"sees    {inputs.num_frames} frames of {inputs.min_pixels} to {inputs.max_pixels} px at {inputs.fps:g} per second, "
        f"wording {inputs.template_name}, references in {inputs.reference_order} order",
        f"learns  {loss.name}{numbers}, both_bad as {loss.both_bad}; mix {data.mix}, teacher {'on' if data.teacher else 'off'}",
    ]
    if config.mode == "head":
        head = config.head
        return [*lines, f"steps   {_passes(head)}, rate {head.rate:g}, weight decay {head.weight_decay:g}"]
    full = config.full
    rates = ", ".join(f"{part} {rate:g}" for part, rate in full.rates.model_dump().items())
    zero = "no ZeRO" if full.zero is None else f"ZeRO {full.zero}"
    return [
        *lines,
        f"steps   {_passes(full)}, rates {rates}",
        f"with    LoRA rank {full.lora.rank}, checkpointing {'on' if full.gradient_checkpointing else 'off'}, {zero}",
    ]


def _passes(part) -> str:
    return f"{part.epochs:g} epochs, {part.batch_pairs} x {part.accumulation} pairs an update and process"


def _width(folder: Path) -> int:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder).get_text_config().hidden_size

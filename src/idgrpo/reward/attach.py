"""Prepare a reward network for full training: what is trained, each part with its own rate, in float32."""

from torch import nn

from idgrpo.errors import UsageError
from idgrpo.reward.config import FullConfig
from idgrpo.reward.model import RewardNetwork
from idgrpo.reward.parts import LANGUAGE_LINEAR


def attach_parts(network: RewardNetwork, config: FullConfig, reward_token_id: int) -> list[dict]:
    """Freeze everything, add adapters and a trainable token row, and return the optimizer's groups.

    A part with rate 0 stays frozen. Trainable weights are float32 whatever the backbone's type, so that small updates
    (2e-6) do not vanish in bfloat16.

    Raises:
        UsageError: nothing would be trained.
    """
    rates = config.rates
    network.requires_grad_(False)
    with_lora = config.lora.rank > 0 and rates.lora > 0
    if with_lora or rates.token > 0:
        network.backbone = _with_adapters(network.backbone, config, reward_token_id, with_lora)
    parts: dict[str, list[nn.Parameter]] = {"lora": [], "token": [], "vision": [], "merger": [], "head": []}
    for name, parameter in network.named_parameters():
        part = part_of(name)
        if part is not None and getattr(rates, part) > 0:
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()
            parts[part].append(parameter)
        else:
            parameter.requires_grad_(False)
    groups = [{"params": found, "lr": getattr(rates, part), "name": part} for part, found in parts.items() if found]
    if not groups:
        raise UsageError("all learning rates are 0: nothing would be trained")
    return groups


def part_of(name: str) -> str | None:
    """Name the part a parameter belongs to; None for the frozen language model."""
    if "lora_" in name:
        return "lora"
    if "trainable_tokens_delta" in name:
        return "token"
    if ".visual." in name:
        # Qwen3-VL has further mergers (`deepstack_merger_list`) that feed the first layers of the language model.
        return "merger" if "merger" in name else "vision"
    return "head" if name.startswith("head.") else None


def _with_adapters(backbone: nn.Module, config: FullConfig, token_id: int, with_lora: bool) -> nn.Module:
    from peft import LoraConfig, TrainableTokensConfig, get_peft_model

    rows = {"embed_tokens": [token_id]}
    if not with_lora:
        return get_peft_model(
            backbone, TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[token_id])
        )
    return get_peft_model(
        backbone,
        LoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            target_modules=LANGUAGE_LINEAR,
            trainable_token_indices=rows if config.rates.token > 0 else None,
        ),
    )


def prepare_backbone(network: RewardNetwork, *, gradient_checkpointing: bool) -> None:
    """Switch gradient checkpointing on where asked (the form that also serves inputs without gradients)."""
    if gradient_checkpointing:
        network.backbone.gradient_checkpointing_enable({"use_reentrant": False})

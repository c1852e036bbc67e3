"""What full training changes: adapters, vision tower, merger, token row, head, each with its own rate; kept in float32.

A reward model directory holds the checkpoint it was built on, as it is, and beside it what is its own (`Parts`). A folded
bfloat16 weight would round most of a small update away.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from idgrpo.errors import ArtifactError, UsageError
from idgrpo.reward.backbone import require_finite
from idgrpo.reward.config import FullConfig

if TYPE_CHECKING:
    from idgrpo.reward.model import RewardNetwork

PARTS_FILE = "reward_parts.safetensors"
EMBEDDING = "language_model.embed_tokens.weight"
LANGUAGE_LINEAR = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


def attach_parts(network: "RewardNetwork", config: FullConfig, reward_token_id: int) -> list[dict]:
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


@dataclass
class Parts:
    """What a reward model has of its own beside its checkpoint, float32 on the CPU; names are those of the bare backbone.

    weights: whole weights in place of the checkpoint's; the embedding table may be cut to its first rows.
    adapters: linear layer -> (A "rank in", B "out rank"), its weight being W + B A.
    rows: token id -> embedding row.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    adapters: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    rows: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, backbone: Any, token_ids: Iterable[int]) -> "Parts":
        """Collect what requires gradients in a backbone that `attach_parts` prepared, and these rows of its table."""
        found = cls()
        table = backbone.get_input_embeddings()
        trained = getattr(table, "token_adapter", table)
        indices = getattr(trained, "token_indices", {}).get("default", [])
        for token_id in token_ids:
            if token_id in indices:
                row = trained.trainable_tokens_delta["default"][list(indices).index(token_id)]
            else:
                row = table.weight[token_id]
            found.rows[token_id] = _kept(row)
        for name, module in backbone.named_modules():
            if "default" in getattr(module, "lora_A", {}):
                a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
                found.adapters[_plain(name)] = (_kept(a), _kept(b) * module.scaling["default"])
        for name, parameter in backbone.named_parameters():
            if parameter.requires_grad and "lora_" not in name and "trainable_tokens" not in name:
                found.weights[_plain(name)] = _kept(parameter)
        return found

    def save(self, folder: Path) -> None:
        """Write the file; ArtifactError for a number that is not finite. Without parts of its own there is no file."""
        tensors = dict(self.weights)
        tensors |= {f"{name}.lora_{side}": pair[side == "B"] for name, pair in self.adapters.items() for side in "AB"}
        tensors |= {f"row.{token_id}": row for token_id, row in self.rows.items()}
        require_finite(tensors, folder / PARTS_FILE)
        if tensors:
            save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, folder / PARTS_FILE)

    @classmethod
    def load(cls, folder: Path) -> "Parts":
        """Read the file, or nothing where there is none; ArtifactError when it is damaged."""
        path, found = folder / PARTS_FILE, cls()
        if not path.is_file():
            return found
        try:
            tensors = load_file(path)
            for name, value in tensors.items():
                if name.endswith(".lora_A"):
                    layer = name.removesuffix(".lora_A")
                    found.adapters[layer] = (value, tensors[f"{layer}.lora_B"])
                elif name.startswith("row."):
                    found.rows[int(name.removeprefix("row."))] = value
                elif not name.endswith(".lora_B"):
                    found.weights[name] = value
        except Exception as error:  # SafetensorError, OSError, KeyError, ValueError
            raise ArtifactError(f"{path} cannot be read: {type(error).__name__} {error}") from error
        require_finite(tensors, path)
        return found

    def apply(self, backbone: Any) -> Any:
        """Put the parts into a bare backbone and return it.

        In float32 adapters are folded in. In bfloat16 they stay apart, as they were in training: W + B A would round to
        the nearest bfloat16 and lose 23 to 69 % of a small update, B (A x) loses nothing that matters. Whole weights are
        rounded as autocast rounded them for each product in training.

        Raises:
            ArtifactError: a part has no place in the backbone, or another shape.
        """
        table = backbone.get_input_embeddings().weight
        needed = max([len(table), *(token_id + 1 for token_id in self.rows), len(self.weights.get(EMBEDDING, ()))])
        if needed > len(table):
            backbone.resize_token_embeddings(needed, mean_resizing=False)
        targets = dict(backbone.named_parameters())
        self.require_place({name: tuple(value.shape) for name, value in targets.items()})
        with torch.no_grad():
            for name, value in self.weights.items():
                targets[name][: len(value)].copy_(value)
            for token_id, row in self.rows.items():
                targets[EMBEDDING][token_id].copy_(row)
            if not self.adapters:
                return backbone
            if backbone.dtype != torch.float32:
                return self._beside(backbone)
            for name, (a, b) in self.adapters.items():
                weight = targets[f"{name}.weight"]
                weight.add_(b.to(weight.device) @ a.to(weight.device))
        return backbone

    def require_place(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raise an ArtifactError unless every part fits weights of these names and shapes."""
        wanted = {name: tuple(value.shape) for name, value in self.weights.items()}
        wanted |= {f"{name}.weight": (len(b), a.shape[1]) for name, (a, b) in self.adapters.items()}
        unexpected = sorted(name for name in wanted if name not in shapes)
        if unexpected:
            raise ArtifactError(
                f"{len(unexpected)} weights have no place in the base model: {', '.join(unexpected[:5])}"
            )
        for name, shape in wanted.items():
            fits = shape == shapes[name] or (
                name == EMBEDDING and shape[1:] == shapes[name][1:] and shape < shapes[name]
            )
            if not fits:
                raise ArtifactError(f"{name} has shape {list(shape)}, the base model's is {list(shapes[name])}")

    def _beside(self, backbone: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        rank = max(len(a) for a, _ in self.adapters.values())
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=LANGUAGE_LINEAR)
        dtype = backbone.dtype
        wrapped = get_peft_model(backbone, config, autocast_adapter_dtype=False)
        for name, module in wrapped.named_modules():
            if "default" in getattr(module, "lora_A", {}):
                sides = module.lora_A["default"], module.lora_B["default"]
                for side, value in zip(sides, self.adapters[_plain(name)], strict=True):
                    side.weight.data = value.to(side.weight.device, dtype)
        return wrapped.requires_grad_(False)


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _kept(value: Tensor) -> Tensor:
    return value.detach().float().cpu().clone()


def prepare_backbone(network: "RewardNetwork", *, gradient_checkpointing: bool) -> None:
    """Switch gradient checkpointing on where asked (the form that also serves inputs without gradients)."""
    if gradient_checkpointing:
        network.backbone.gradient_checkpointing_enable({"use_reentrant": False})


def add_token_rows(backbone: Any, vocabulary_size: int, num_added: int) -> None:
    """Give added tokens (the last ids of the vocabulary) an embedding row: the mean of all older rows."""
    table = backbone.get_input_embeddings().weight
    if vocabulary_size > table.shape[0]:
        backbone.resize_token_embeddings(vocabulary_size, mean_resizing=False)
        table = backbone.get_input_embeddings().weight
    if num_added:
        with torch.no_grad():
            first = vocabulary_size - num_added
            table[first:vocabulary_size] = table[:first].float().mean(0).to(table.dtype)

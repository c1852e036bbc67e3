"""What a reward model has of its own beside its checkpoint: adapters, vision tower, merger, token row; kept in float32.

A reward model directory holds the checkpoint it was built on, as it is, and beside it what is its own (`Parts`). A folded
bfloat16 weight would round most of a small update away.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from idgrpo.errors import ArtifactError
from idgrpo.reward.backbone import require_finite

PARTS_FILE = "reward_parts.safetensors"
EMBEDDING = "language_model.embed_tokens.weight"
LANGUAGE_LINEAR = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


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
        """Collect what requires gradients in a backbone that `attach_parts` (attach.py) prepared, and these rows of its table."""
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

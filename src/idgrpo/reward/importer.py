"""Import the reward checkpoint that the authors of Identity-GRPO released (`idgrpo artifacts import-rm`).

Layout read: `adapter_model.safetensors` (LoRA on the language model),
`non_lora_state_dict.pth` (vision tower, merger, embedding table, head) and `model_config.json` beside them or above, with key
names of transformers 4.51 (`model.layers.*`, `visual.*`, `rm_head`).
"""

import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from idgrpo.errors import ArtifactError
from idgrpo.records.document import parse_json
from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.model import RewardNetwork, save_network
from idgrpo.reward.parts import EMBEDDING, LANGUAGE_LINEAR, Parts, add_token_rows

ADAPTER, REST, CONFIG = "adapter_model.safetensors", "non_lora_state_dict.pth", "model_config.json"
LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
# The language head takes no part in scoring and our backbone has none.
UNUSED = ("lm_head.weight",)
ADAPTED = re.compile(LANGUAGE_LINEAR + r"\.weight")


def our_name(key: str) -> str:
    """Translate a key of transformers 4.51, with or without PEFT's prefix, into the bare model's name today."""
    key = key.removeprefix("base_model.model.")
    if key.startswith("visual."):
        return key
    if key.startswith("model."):
        return "language_model." + key.removeprefix("model.")
    return key


def lora_pairs(
    adapter: dict[str, Tensor], rank: int, alpha: float, *, rank_stabilised: bool
) -> dict[str, tuple[Tensor, Tensor]]:
    """Pair the adapters' matrices, scaled: layer -> float32 (A, scale * B), the layer's update being their product B A.

    scale = alpha / r, or alpha / sqrt(r) for rank-stabilised adapters.

    Raises:
        ArtifactError: a key that is no adapter, a pair without its half, a rank that is not the stated one.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    for key, value in adapter.items():
        found = LORA.fullmatch(key)
        if not found:
            raise ArtifactError(f"{ADAPTER} has the unexpected key {key}")
        halves.setdefault(our_name(found[1]), {})[found[2]] = value.float()
    scale = alpha / (math.sqrt(rank) if rank_stabilised else rank)
    pairs = {}
    for name, pair in halves.items():
        if set(pair) != {"A", "B"}:
            raise ArtifactError(f"{ADAPTER}: {name} has only one of its two matrices")
        if pair["A"].shape[0] != rank:
            raise ArtifactError(f"{ADAPTER}: {name} has rank {pair['A'].shape[0]}, {CONFIG} says {rank}")
        pairs[name] = pair["A"], scale * pair["B"]
    return pairs


def import_checkpoint(checkpoint: Path, base: Path, out: Path, **overrides: Any) -> dict[str, int]:
    """Convert a released checkpoint on top of its base model; return how many weights were read.

    Every key must find its place: none is skipped and none may be missing from what the layout promises.

    Args:
        checkpoint: folder with the three files (`model_config.json` may lie one folder up).
        base: directory of the Qwen2.5-VL checkpoint it was trained from.
        out: new reward model directory.
        overrides: preprocessing fields, such as the wording it was trained with (`template_text`); ours otherwise,
            which shifts its scores.

    Raises:
        ArtifactError: files missing or damaged, keys missing or unexpected, shapes that do not fit, numbers that are
            not finite.
    """
    settings = read_settings(checkpoint)
    builder = InputBuilder.load(base, **{**_preprocessing(settings), **overrides})
    backbone = load_backbone(base, dtype=torch.bfloat16)  # for names and shapes; its numbers are copied as files
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    network = RewardNetwork(backbone, backbone.get_input_embeddings().weight.shape[1])
    adapter, rest = _read_weights(checkpoint)
    lora = settings["peft_lora_config"]
    parts = Parts(
        weights={our_name(key): value.float() for key, value in rest.items()},
        adapters=lora_pairs(adapter, lora["lora_r"], lora["lora_alpha"], rank_stabilised=lora.get("use_rslora", False)),
    )
    num_read = {"adapters": len(parts.adapters), "weights": len(parts.weights)}
    shapes = {name: tuple(value.shape) for name, value in backbone.named_parameters()}
    _require_all(parts, shapes, builder.reward_id)
    head = parts.weights.pop("rm_head.weight", None)
    if head is None or head.shape != network.head.weight.shape:
        found = "no head" if head is None else f"a head of shape {list(head.shape)}"
        raise ArtifactError(f"{REST} has {found}; one score, {list(network.head.weight.shape)}, is what we can read")
    for name in UNUSED:
        parts.weights.pop(name, None)
    parts.require_place(shapes)
    with torch.no_grad():
        network.head.weight.copy_(head)
    card = {
        "mode": "authors",
        "vlm": settings["model_config"]["model_name_or_path"],
        "tie_threshold": math.log((25 - 2) / 5),  # where a tie stops being the likeliest label at theta = 5
        "config": settings,
    }
    save_network(network, builder, card, out, copy_from=base, parts=parts)
    return num_read


def _require_all(parts: Parts, shapes: dict[str, tuple[int, ...]], reward_token_id: int) -> None:
    """Refuse a checkpoint that lacks what training changed: adapters of every layer, vision tower, token row."""
    adapted = {name.removesuffix(".weight") for name in shapes if ADAPTED.fullmatch(name)}
    trained = {name for name in shapes if name.startswith("visual.")}
    for missing, file in (
        (adapted - set(parts.adapters), ADAPTER),
        ({*trained, EMBEDDING} - set(parts.weights), REST),
    ):
        if missing:
            raise ArtifactError(f"{file} lacks {len(missing)} weights: {', '.join(sorted(missing)[:5])}")
    if parts.weights[EMBEDDING].shape[0] <= reward_token_id:
        num_rows = parts.weights[EMBEDDING].shape[0]
        raise ArtifactError(f"{REST}: {EMBEDDING} has {num_rows} rows, none for the reward token")


def read_settings(checkpoint: Path) -> dict:
    """Read `model_config.json`, in the folder or above it; an unknown kind of model is an ArtifactError."""
    for path in (checkpoint / CONFIG, checkpoint.parent / CONFIG):
        if path.is_file():
            try:
                settings = parse_json(path.read_text(encoding="utf-8"))
                model, lora = settings["model_config"], settings["peft_lora_config"]
                known = model["output_dim"] == 1 and model["reward_token"] == "special" and not lora["vision_lora"]
                known = known and "max_frame_pixels" in settings["data_config"]
            except (ValueError, KeyError, TypeError) as error:
                raise ArtifactError(f"{path} is not the authors' configuration: {error}") from error
            if not known:
                raise ArtifactError(
                    f"{path}: only one score, read from the special token, without adapters in vision, is known"
                )
            return settings
    raise ArtifactError(f"{CONFIG} is neither in {checkpoint} nor above it")


def _preprocessing(settings: dict) -> dict[str, Any]:
    data = settings["data_config"]
    # Their "5 frames" went through Python's round(x / 2) * 2: bankers' rounding makes 4 of it.
    num_frames = max(2, round((data["num_frames"] or 8) / 2) * 2)
    return {"num_frames": num_frames, "max_pixels": data["max_frame_pixels"], "reference_order": "given"}


def _read_weights(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    try:
        return load_file(checkpoint / ADAPTER), torch.load(checkpoint / REST, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ArtifactError(f"{error.filename or error} is missing") from None
    except Exception as error:
        raise ArtifactError(f"the weights in {checkpoint} cannot be read: {error}") from error

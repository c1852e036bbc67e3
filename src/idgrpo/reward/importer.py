"""Import a released reward checkpoint (`idgrpo artifacts import-rm`): Identity-GRPO's, or VideoAlign's, from which it comes.

Layout read: `adapter_model.safetensors` (LoRA on the language model),
`non_lora_state_dict.pth` (vision tower, merger, embedding table, head) and `model_config.json` beside them or above, with key
names of transformers 4.51 (`model.layers.*`, `visual.*`, `rm_head`). VideoAlign's (VideoReward) has three special tokens, one a
dimension, and no photos of people. What stands behind a token cannot reach its hidden state, so that each dimension is a reward
model of its own, whose text ends with its token.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from idgrpo.errors import ArtifactError, UsageError
from idgrpo.records.document import parse_json
from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.model import RewardNetwork, save_network
from idgrpo.reward.parts import EMBEDDING, LANGUAGE_LINEAR, Parts, add_token_rows

ADAPTER, REST, CONFIG = "adapter_model.safetensors", "non_lora_state_dict.pth", "model_config.json"
LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
DIMENSIONS = ("VQ", "MQ", "TA")
"""VideoAlign's: visual quality, motion quality, text alignment; their tokens stand in this order."""
MIN_FRAME_PIXELS = 128 * 28 * 28
"""VideoAlign's reader of clips enlarges smaller frames to this."""
TYPICAL_SECONDS = 5
"""VideoAlign looks at `fps` frames a second, our models at a number of frames: theirs of a clip this long."""
QWEN_CHAT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{video}%s<|im_end|>\n<|im_start|>assistant\n"
"""What Qwen2-VL's chat template makes of a clip and a text; VideoAlign's wording is the text alone."""
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
        shapes = {side: list(pair[side].shape) for side in "AB"}
        if any(len(shape) != 2 for shape in shapes.values()) or shapes["A"][0] != rank or shapes["B"][1] != rank:
            raise ArtifactError(
                f"{ADAPTER}: {name} has matrices of shape {shapes['A']} and {shapes['B']}, {CONFIG} says rank {rank}"
            )
        pairs[name] = pair["A"], scale * pair["B"]
    return pairs


def import_checkpoint(
    checkpoint: Path, base: Path, out: Path, *, dimension: str | None = None, **overrides: Any
) -> dict[str, int]:
    """Convert a released checkpoint on top of its base model; return how many weights were read.

    Every key must find its place: none is skipped and none may be missing from what the layout promises.

    Args:
        checkpoint: folder with the three files (`model_config.json` may lie one folder up).
        base: directory of the Qwen2.5-VL checkpoint it was trained from.
        out: new reward model directory.
        dimension: of VideoAlign's layout, one of `DIMENSIONS`.
        overrides: preprocessing fields, such as the wording it was trained with (`template_text`); ours otherwise,
            which shifts its scores.

    Raises:
        ArtifactError: files missing or damaged, keys missing or unexpected, shapes that do not fit, numbers that are
            not finite.
    """
    settings = read_settings(checkpoint)
    check_dimension(settings, dimension)
    builder = InputBuilder.load(base, **{**_preprocessing(settings, dimension), **overrides})
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
    num_heads = settings["model_config"]["output_dim"]
    head, width = parts.weights.pop("rm_head.weight", None), network.head.weight.shape[1]
    if head is None or head.shape != (num_heads, width):
        found = "no head" if head is None else f"a head of shape {list(head.shape)}"
        raise ArtifactError(f"{REST} has {found}; {CONFIG} promises {[num_heads, width]}")
    scale = _scale(settings, dimension)
    if dimension is not None:  # three rows, one a dimension, or one row for all three tokens
        row = DIMENSIONS.index(dimension) if num_heads > 1 else 0
        head = head[row : row + 1] / scale
    for name in UNUSED:
        parts.weights.pop(name, None)
    parts.require_place(shapes)
    with torch.no_grad():
        network.head.weight.copy_(head)
    card = {
        "mode": "authors" if dimension is None else "videoalign",
        **({} if dimension is None else {"dimension": dimension}),
        "vlm": settings["model_config"]["model_name_or_path"],
        "tie_threshold": math.log((25 - 2) / 5) / scale,  # where a tie stops being the likeliest label at theta = 5
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
                known = model["reward_token"] == "special" and not lora["vision_lora"]
                known = known and model["output_dim"] in ((1, len(DIMENSIONS)) if is_videoalign(settings) else (1,))
                known = known and "max_frame_pixels" in settings["data_config"]
                _check_numbers(settings)
            except (ValueError, KeyError, TypeError) as error:
                said = f"it has no {error}" if isinstance(error, KeyError) else error
                raise ArtifactError(f"{path} is not the authors' configuration: {said}") from error
            if not known:
                raise ArtifactError(
                    f"{path}: known are one score, read from the special token, and VideoAlign's three (eval_dim VQ, MQ, TA), "
                    "without adapters in vision"
                )
            return settings
    raise ArtifactError(f"{CONFIG} is neither in {checkpoint} nor above it")


def _check_numbers(settings: dict) -> None:
    """Refuse values that the import computes with and that are none. Raises KeyError, ValueError."""
    model, data, lora = (settings[part] for part in ("model_config", "data_config", "peft_lora_config"))
    if not isinstance(model["model_name_or_path"], str):
        raise ValueError("model_config.model_name_or_path is no text")
    num_frames = data.get("num_frames") if is_videoalign(settings) else data["num_frames"]
    counts = {
        "peft_lora_config.lora_r": lora["lora_r"],
        "peft_lora_config.lora_alpha": lora["lora_alpha"],
        "data_config.max_frame_pixels": data["max_frame_pixels"],
        "data_config.num_frames": num_frames or 8,  # null asks for `fps`, or for the authors' own number
        **({"data_config.fps": data["fps"]} if is_videoalign(settings) and not num_frames else {}),
    }
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name} is {value!r}, a positive number is needed")


def is_videoalign(settings: dict) -> bool:
    """Tell VideoAlign's layout by the dimensions that it names."""
    return tuple(settings["data_config"].get("eval_dim") or ()) == DIMENSIONS


def check_dimension(settings: dict, dimension: str | None) -> None:
    """Raise UsageError for a dimension that the checkpoint does not have, or none where it has several, ArtifactError for a
    scale of its scores that is none."""
    if is_videoalign(settings) and dimension not in DIMENSIONS:
        raise UsageError(
            f"this checkpoint scores {', '.join(DIMENSIONS)}, each a reward model of its own"
            + ("" if dimension is None else f"; {dimension} is none of them"),
            fix="--dimension VQ (visual quality), MQ (motion quality) or TA (text alignment)",
        )
    if not is_videoalign(settings) and dimension is not None:
        raise UsageError("this checkpoint has one score", fix="leave --dimension out")
    _scale(settings, dimension)


def wording_of(settings: dict, name: str, text: str) -> dict[str, Any]:
    """Give the preprocessing fields of a wording that a checkpoint was trained with.

    VideoAlign's own (`prompt_template.py`) is taken as it is there, with `{text_prompt}` for the prompt and without the chat
    around it.
    """
    if is_videoalign(settings):
        text = text.replace("{text_prompt}", "{prompt}")
        text = text if "{video}" in text else QWEN_CHAT.replace("%s", text)
    return {"template_name": name, "template_text": text}


def _scale(settings: dict, dimension: str | None) -> float:
    """Give the standard deviation of a dimension's scores, by which VideoAlign divides them; their mean changes no difference."""
    if dimension is None:
        return 1.0
    scale = (settings.get("inference_config") or {}).get(f"{dimension}_std", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise ArtifactError(f"{CONFIG}: {dimension}_std is {scale!r}, a positive number is needed")
    return float(scale)


def _preprocessing(settings: dict, dimension: str | None) -> dict[str, Any]:
    data = settings["data_config"]
    if dimension is not None:
        wanted = data.get("num_frames") or data["fps"] * TYPICAL_SECONDS
        return {
            "num_frames": max(2, round(wanted / 2) * 2),
            "min_pixels": min(MIN_FRAME_PIXELS, data["max_frame_pixels"]),
            "max_pixels": data["max_frame_pixels"],
            "template_name": "videoalign_v1",
            "reference_text": "",
            "prompt_text": "{prompt}",
            "special_tokens": tuple(f"<|{name}_reward|>" for name in DIMENSIONS),
            "reward_token": f"<|{dimension}_reward|>",
        }
    # Their "5 frames" went through Python's round(x / 2) * 2: bankers' rounding makes 4 of it.
    num_frames = max(2, round((data["num_frames"] or 8) / 2) * 2)
    return {"num_frames": num_frames, "max_pixels": data["max_frame_pixels"], "reference_order": "given"}


def _read_weights(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    read: dict[str, Callable[..., Any]] = {
        ADAPTER: load_file,
        REST: partial(torch.load, map_location="cpu", weights_only=True),
    }
    found = []
    for name, load in read.items():
        path = checkpoint / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing", fix="get the whole checkpoint again")
        try:
            weights = load(path)
        except Exception as error:  # pickle, zip and safetensors have errors of their own
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ArtifactError(f"{path} cannot be read: {said[0]}", fix="get this file again") from error
        if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
            raise ArtifactError(f"{path} holds no weights by name", fix="get this file again")
        found.append(weights)
    return found[0], found[1]

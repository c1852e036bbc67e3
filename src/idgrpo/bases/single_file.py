"""The original Wan/Phantom checkpoint files: read safely, renamed to diffusers, checked key by key."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idgrpo.bases.architectures import ARCHITECTURES, architecture_of_state_dict
from idgrpo.bases.contract import BaseEntry
from idgrpo.bases.keymap import to_diffusers, to_original
from idgrpo.bases.weights import read_config, reading_weights, refuse_not_finite
from idgrpo.errors import ArtifactError, UsageError
from idgrpo.records.document import parse_json

_WAN_DEFAULTS = {"patch_size": (1, 2, 2), "in_channels": 16, "text_dim": 4096}
"""What a configuration may leave out because the class has it as a default."""
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "module.")


def read_original(path: Path, pattern: str = "*.safetensors") -> dict[str, Tensor]:
    """Read an original checkpoint: a .pth (weights only, mapped into memory), a .safetensors, or a folder of shards.

    Raises ArtifactError for a damaged file or one that holds something else than tensors.
    """
    if path.is_dir():
        merged: dict[str, Tensor] = {}
        for file in _shards(path, pattern):
            merged.update(read_original(file))
        return merged
    with reading_weights(path):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    while isinstance(state, dict) and len(state) == 1 and isinstance(next(iter(state.values())), dict):
        state = next(iter(state.values()))  # {"state_dict": {...}}
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ArtifactError(f"{path} holds no plain table of weights", fix="give the published checkpoint file")
    refuse_not_finite(state, path)
    return {_strip(key): value for key, value in state.items()}


def _shards(folder: Path, pattern: str) -> list[Path]:
    """Give the shards of a checkpoint; with an index beside them, all that it names must be there."""
    shards = sorted(folder.glob(pattern))
    for index in sorted(folder.glob(f"{pattern}.index.json")):
        with reading_weights(index):
            named = set(parse_json(index.read_text())["weight_map"].values())
        missing = sorted(named - {shard.name for shard in shards})
        if missing:
            raise ArtifactError(f"{folder} lacks shards: {', '.join(missing)}", fix="finish the download")
    return shards


def _strip(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def original_hidden_size(path: Path) -> int:
    """Give the width of an original checkpoint. Raises UsageError when it is not a Wan transformer."""
    state = read_original(path)
    if "patch_embedding.weight" not in state:
        raise UsageError(
            f"{path} is not a transformer of the Wan family: it has no patch_embedding.weight "
            f"(first keys: {', '.join(sorted(state)[:3])})",
            fix="give an original Phantom checkpoint, or a diffusers folder",
        )
    return state["patch_embedding.weight"].shape[0]


def load_original_transformer(path: Path, entry: BaseEntry, dtype: torch.dtype) -> nn.Module:
    """Build a `WanTransformer3DModel` from an original checkpoint. ArtifactError lists keys that do not fit.

    The configuration is that of a `config.json` beside the file (diffusers' field names), else the entry's public
    architecture, else read from the shapes.
    """
    from accelerate import init_empty_weights
    from diffusers import WanTransformer3DModel

    original = read_original(path, Path(entry.source).name if "*" in entry.source else "*.safetensors")
    state, unknown = {}, []
    for key, value in original.items():
        renamed = to_diffusers(key)
        if renamed is None:
            unknown.append(key)
        else:
            state[renamed] = value
    with reading_weights(path):
        config = original_config(path, entry)
        with init_empty_weights(include_buffers=False):
            model = WanTransformer3DModel(**config)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing = [str(to_original(key)) for key in expected if key not in state]
    surplus = unknown + [str(to_original(key)) for key in state if key not in expected]
    wrong = [
        f"{to_original(key)} {tuple(value.shape)} instead of {expected[key]}"
        for key, value in state.items()
        if key in expected and tuple(value.shape) != expected[key]
    ]
    problems = [
        f"{len(keys)} {what}: {', '.join(sorted(keys)[:8])}{' ...' if len(keys) > 8 else ''}"
        for what, keys in (("missing", missing), ("unexpected", surplus), ("of another shape", wrong))
        if keys
    ]
    if problems:
        raise ArtifactError(
            f"{path} does not fit {entry.name}: {'; '.join(problems)}",
            fix="this file is for another model, or only a part of it is here",
        )
    keep = model._keep_in_fp32_modules or []
    state = {key: value.to(torch.float32 if set(key.split(".")) & set(keep) else dtype) for key, value in state.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model


def original_config(path: Path, entry: BaseEntry) -> dict[str, Any]:
    """Give the configuration of an original checkpoint, without reading its weights where something else says it."""
    folder = path if path.is_dir() else path.parent
    if (folder / "config.json").is_file():
        values = read_config(folder)
        if "num_attention_heads" in values:
            return _WAN_DEFAULTS | {key: value for key, value in values.items() if not key.startswith("_")}
    if entry.architecture in ARCHITECTURES:
        return ARCHITECTURES[entry.architecture]
    shapes = {to_diffusers(key): tuple(value.shape) for key, value in read_original(path).items()}
    with reading_weights(path):
        return architecture_of_state_dict({key: shape for key, shape in shapes.items() if key is not None})

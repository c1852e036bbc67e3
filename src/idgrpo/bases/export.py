"""Adapters for other programs: the diffusers file as it is, or one with the key names that ComfyUI expects."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.bases.keymap import to_diffusers, to_original
from idgrpo.bases.lora import WEIGHTS_FILE
from idgrpo.bases.tuned import what_is_trained
from idgrpo.bases.weights import read_finite, reading_weights
from idgrpo.errors import ArtifactError, UsageError
from idgrpo.records.atomic import replacing

FORMATS = ("diffusers", "comfyui")
DIFFUSERS_PREFIX = "transformer."
COMFY_PREFIX = "diffusion_model."


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: matrices A and B by diffusers' names (without prefix), and the scale's numerator."""

    state: dict[str, Tensor]
    alpha: float

    @property
    def rank(self) -> int:
        return next(value.shape[0] for key, value in self.state.items() if ".lora_A." in key)

    @property
    def num_layers(self) -> int:
        return sum(".lora_A." in key for key in self.state)


def read_adapter(source: Path) -> Adapter:
    """Read an adapter as `lora.save_adapter` writes it, file or folder. Raises ArtifactError."""
    from safetensors import safe_open

    path = source / WEIGHTS_FILE if source.is_dir() else source
    if what_is_trained(source) == "full":
        raise UsageError(
            f"{source} holds whole weights, not an adapter",
            fix=f"diffusers reads them as they are, from {source / 'transformer'}",
        )
    if not path.is_file():
        raise ArtifactError(f"no adapter at {source}: {path.name} is missing", fix="give a policy artifact")
    with reading_weights(path), safe_open(path, "pt") as file:
        settings = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    state = read_finite(path)
    strange = [key for key in state if not (key.startswith(DIFFUSERS_PREFIX) and ".lora_" in key)]
    if strange or not state:
        raise ArtifactError(f"{path} is no adapter in diffusers' format: {', '.join(strange[:3]) or 'it is empty'}")
    if settings.get(f"{DIFFUSERS_PREFIX}alpha_pattern") or settings.get(f"{DIFFUSERS_PREFIX}rank_pattern"):
        raise ArtifactError(f"{path} has ranks or scales by layer, which cannot be exported")
    adapter = Adapter({key.removeprefix(DIFFUSERS_PREFIX): value for key, value in state.items()}, 0.0)
    # Without metadata diffusers takes alpha for the rank.
    return Adapter(adapter.state, float(settings.get(f"{DIFFUSERS_PREFIX}lora_alpha", adapter.rank)))


def export_adapter(source: Path, form: str, out: Path) -> Adapter:
    """Write an adapter to the file `out`; what was written is read back and must be the same adapter.

    `diffusers`: the file itself, with its metadata; `load_lora_weights` of the Wan pipelines reads it. `comfyui`: see
    `comfy_state`. diffusers also reads that one for Phantom; for VACE its reader refuses the control blocks (0.42).

    Raises UsageError (unknown format, `out` cannot be a file), ArtifactError (no adapter, or one that is damaged).
    """
    from safetensors.torch import load_file, save_file

    if form not in FORMATS:
        raise UsageError(f"there is no format '{form}'", fix=f"formats: {', '.join(FORMATS)}")
    if out.is_dir():
        raise UsageError(f"{out} is a folder, a file is needed", fix=f"--out {out / 'adapter.safetensors'}")
    adapter = read_adapter(source)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    with replacing(out) as draft:
        if form == "diffusers":
            shutil.copyfile(source / WEIGHTS_FILE if source.is_dir() else source, draft)
            return adapter
        save_file(comfy_state(adapter), draft, metadata={"format": "pt"})
        back = adapter_of_comfy(load_file(draft))
        same = back.alpha == adapter.alpha and back.state.keys() == adapter.state.keys()
        if not same or not all(torch.equal(back.state[key], value) for key, value in adapter.state.items()):
            raise ArtifactError(f"the adapter at {source} does not survive the way into ComfyUI's names and back")
    return adapter


def comfy_state(adapter: Adapter) -> dict[str, Tensor]:
    """Give an adapter under the names that ComfyUI looks up.

    `comfy/lora.py: model_lora_keys_unet` takes `diffusion_model.<original name of the layer>` for each weight of the
    model, `comfy/weight_adapter/lora.py` reads `.lora_A.weight`, `.lora_B.weight` and scales by `.alpha` / rank. Its Wan
    models carry the original names: `blocks.0.self_attn.q`, and for VACE `vace_blocks.0.self_attn.q` (`VaceWanModel`).
    """
    state: dict[str, Tensor] = {}
    for key, value in adapter.state.items():
        original = to_original(key)
        if original is None:
            raise ArtifactError(f"the original code of the Wan family has no layer for {key}")
        state[f"{COMFY_PREFIX}{original}"] = value.contiguous()
        state[f"{COMFY_PREFIX}{original.split('.lora_')[0]}.alpha"] = torch.tensor(adapter.alpha)
    return state


def adapter_of_comfy(state: Mapping[str, Tensor]) -> Adapter:
    """Give the adapter of a ComfyUI file. Raises ArtifactError for names that no Wan model has."""
    scales = {float(value) for key, value in state.items() if key.endswith(".alpha")}
    renamed = {}
    for key, value in state.items():
        name = to_diffusers(key.removeprefix(COMFY_PREFIX))
        if name is None or not key.startswith(COMFY_PREFIX) or len(scales) != 1:
            raise ArtifactError(f"no adapter of a Wan model with one scale: {key}")
        if not key.endswith(".alpha"):
            renamed[name] = value
    return Adapter(renamed, scales.pop())

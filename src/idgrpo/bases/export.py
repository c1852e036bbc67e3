"""Policies for other programs: adapter or merged weights, under diffusers' names or those that ComfyUI expects."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from idgrpo.bases.contract import Base
from idgrpo.bases.keymap import to_diffusers, to_original
from idgrpo.bases.load import load_base
from idgrpo.bases.lora import ORDER_KEY, POLICY, WEIGHTS_FILE, lora_layers
from idgrpo.bases.policy_card import read_policy_card
from idgrpo.bases.tuned import WEIGHTS_FILE as MERGED_FILE
from idgrpo.bases.tuned import load_tuned, what_is_trained
from idgrpo.bases.weights import read_finite, reading_weights, sort_header
from idgrpo.errors import ArtifactError, UsageError
from idgrpo.records.atomic import replacing
from idgrpo.records.document import parse_json

log = logging.getLogger(__name__)
FORMATS = ("diffusers", "comfyui")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DIFFUSERS_PREFIX = "transformer."
COMFY_PREFIX = "diffusion_model."


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: matrices A and B by diffusers' names (without prefix), and the scale's numerator."""

    state: dict[str, Tensor]
    alpha: float
    reference_order: str | None = None
    """Of VACE: `forward` or `reversed`, as it was trained."""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return next((value.shape[0] for key, value in self.state.items() if ".lora_A." in key), 0)

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
            fix=f"diffusers reads them as they are, from {source / 'transformer'}; or export them merged",
        )
    if not path.is_file():
        raise ArtifactError(f"no adapter at {source}: {path.name} is missing", fix="give a policy artifact")
    with reading_weights(path), safe_open(path, "pt") as file:
        metadata = dict(file.metadata() or {})
        settings = dict(parse_json(metadata.get("lora_adapter_metadata", "{}")))
    state = read_finite(path)
    strange = [key for key in state if not (key.startswith(DIFFUSERS_PREFIX) and ".lora_" in key)]
    if strange or not state:
        raise ArtifactError(f"{path} is no adapter in diffusers' format: {', '.join(strange[:3]) or 'it is empty'}")
    if settings.get(f"{DIFFUSERS_PREFIX}alpha_pattern") or settings.get(f"{DIFFUSERS_PREFIX}rank_pattern"):
        raise ArtifactError(f"{path} has ranks or scales by layer, which cannot be exported")
    plain = {key.removeprefix(DIFFUSERS_PREFIX): value for key, value in state.items()}
    # Files from before the order was written down were trained in the case's order.
    is_vace = any(key.startswith("vace_blocks.") for key in plain)
    order = metadata.get(ORDER_KEY, "forward") if is_vace else None
    alpha = settings.get(
        f"{DIFFUSERS_PREFIX}lora_alpha", Adapter(plain, 0.0).rank
    )  # what diffusers takes without metadata
    return Adapter(plain, float(alpha), order, metadata)


def export_adapter(
    source: Path, form: str, out: Path, *, dtype: str | None = None, merged_into: str | None = None
) -> Adapter:
    """Write an adapter for another program; what was written is read back and must be the same adapter.

    `diffusers`: the file itself, with its metadata; `load_lora_weights` of the Wan pipelines reads it. `comfyui`: see
    `comfy_state`. diffusers also reads that one for Phantom; for VACE its reader refuses the control blocks (0.42).
    dtype: float32 or bfloat16; None leaves it. merged_into: the name or path of the base the policy was trained on; whole
    weights are written then (see `export_merged`). A VACE file says in its metadata in which order references were trained.

    Raises UsageError (unknown format or dtype, `out` cannot be a file), ArtifactError (no adapter, or one that is damaged).
    """
    if form not in FORMATS:
        raise UsageError(f"there is no format '{form}'", fix=f"formats: {', '.join(FORMATS)}")
    if dtype not in (None, *DTYPES):
        raise UsageError(f"there is no dtype '{dtype}' to export in", fix=f"use one of {', '.join(DTYPES)}")
    if merged_into is not None:
        return export_merged(source, form, out, dtype=dtype, base=merged_into)
    adapter = read_adapter(source)
    _require_file(out)
    if dtype is not None:
        adapter = replace(adapter, state={key: value.to(DTYPES[dtype]) for key, value in adapter.state.items()})
    order = {} if adapter.reference_order is None else {ORDER_KEY: adapter.reference_order}
    with replacing(out) as draft:
        if form == "diffusers":
            state = {f"{DIFFUSERS_PREFIX}{key}": value.contiguous() for key, value in adapter.state.items()}
            save_file(state, draft, metadata={"format": "pt"} | adapter.metadata | order)
            sort_header(draft)
            back = read_adapter(draft)
        else:
            save_file(comfy_state(adapter), draft, metadata={"format": "pt"} | order)
            sort_header(draft)
            back = adapter_of_comfy(load_file(draft))
        same = back.alpha == adapter.alpha and back.state.keys() == adapter.state.keys()
        if not same or not all(torch.equal(back.state[key], value) for key, value in adapter.state.items()):
            raise ArtifactError(f"the adapter at {source} does not survive the way into {form}'s names and back")
    return adapter


def export_merged(source: Path, form: str, out: Path, *, dtype: str | None, base: str) -> Adapter:
    """Write the whole transformer with the policy in it, float32 unless told.

    `comfyui`: one file with the original code's names. `diffusers`: a folder `out` with config.json, which
    `from_pretrained` of the transformer's class reads. bfloat16 can round much of a small adapter away: what it adds
    to a weight is then less than half of that weight's last bit. A policy that was trained on quantised weights is merged into
    unquantised ones, with a warning.
    """
    card = read_policy_card(source) if source.is_dir() else None
    if card is not None and card.quantised is not None:
        log.warning(
            "%s was trained on %s weights of its base and is merged into unquantised ones: compare both with `idgrpo eval`",
            source,
            card.quantised,
        )
    loaded = load_base(base, dtype=torch.float32)
    adapter = Adapter({}, 0.0) if load_tuned(loaded, source) == "full" else read_adapter(source)
    if form == "comfyui":
        _require_file(out)
    elif out.is_file():
        raise UsageError(
            f"{out} is a file, a folder is needed for whole weights in diffusers' layout", fix="another --out"
        )
    kept = set(loaded.transformer._keep_in_fp32_modules or ())
    state = {}
    for key, value in merged_state(loaded).items():
        name = to_original(key) if form == "comfyui" else key
        if name is None:
            raise ArtifactError(f"the original code of the Wan family has no layer for {key}")
        is_kept = bool(kept & set(key.split(".")))  # norms and modulation, which stay float32 in every copy
        state[name] = value.to(torch.float32 if is_kept or dtype is None else DTYPES[dtype]).contiguous()
    order = {ORDER_KEY: adapter.reference_order} if adapter.reference_order else {}
    path = out
    if form == "diffusers":
        loaded.transformer.save_config(out)
        path = out / MERGED_FILE
    with replacing(path) as draft:
        save_file(state, draft, metadata={"format": "pt"} | order)
        sort_header(draft)
    return adapter


def merged_state(base: Base) -> dict[str, Tensor]:
    """Give the weights of a base's transformer with its adapter in them, by diffusers' names; the sum is made in float32."""
    plain = {key: value for key, value in base.transformer.state_dict().items() if ".lora_" not in key}
    state = {key.replace(".base_layer.", "."): value for key, value in plain.items()}
    for name, layer in lora_layers(base):
        state[f"{name}.weight"] = layer.get_base_layer().weight.float() + layer.get_delta_weight(POLICY).float()
    return {key: value.detach().cpu() for key, value in state.items()}


def _require_file(out: Path) -> None:
    """Refuse a place where no file can be, and make the folders above it."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder, a file is needed", fix=f"--out {out / 'adapter.safetensors'}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error


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

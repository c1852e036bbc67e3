"""Load a base by name or path: find its parts, check that they are what they should be, put them on a device."""

import contextlib
import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from idgrpo.bases.architectures import CLASS_OF_FAMILY
from idgrpo.bases.config import numerics_of, refuse_numerics, refuse_reversal
from idgrpo.bases.contract import QUANTISED, BaseEntry, BaseWeights
from idgrpo.bases.entries import ENTRIES, missing_weights, resolve_entry
from idgrpo.bases.geometry import Geometry
from idgrpo.bases.numerics import check_attention, quantise, require_library, set_attention
from idgrpo.bases.single_file import load_original_transformer, original_config
from idgrpo.bases.text import TextEncoder
from idgrpo.bases.weights import locate, read_config, reading_weights, refuse_not_finite, snapshot_commit
from idgrpo.errors import ArtifactError, MachineError, UsageError
from idgrpo.plugins import load
from idgrpo.records.document import parse_json
from idgrpo.run.machine import weights_dtype

if TYPE_CHECKING:
    from idgrpo.bases.wan import WanBase

ENCODERS: tuple[str, ...] = ("vae", "text_encoder", "tokenizer")
"""Components that turn cases into conditions and latents into pixels; a companion may hold them."""
PARTS = ("transformer", *ENCODERS)
_DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}


def load_base(
    name_or_path: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    encoder_device: str | torch.device | None = None,
    vae_tiling: bool | None = None,
    vae_dtype: torch.dtype | str = torch.float32,
    reversed_references: bool = False,
    with_transformer: bool = True,
    base_weights: BaseWeights | None = None,
    attention: str | None = None,
) -> "WanBase":
    """Load a base: a name of `entries.ENTRIES` (with `@commit` to pin a hub revision), a diffusers folder, or one file.

    dtype is that of the transformer: None takes float32 on the CPU and bfloat16 elsewhere (`weights_dtype`; diffusers keeps norms,
    time embedding and modulation in float32). vae_dtype is that of the VAE. encoder_device (None = `device`) is where the text
    encoder works; its weights are read at the first prompt. reversed_references: VACE puts the last reference first, as
    diffusers' pipeline does. vae_tiling decodes in overlapping tiles of 256 px: less memory, and pixels near the seams differ
    slightly; None does so where a GPU has no room for a whole frame. with_transformer False leaves the transformer for
    `load_transformer`, which those call who encode all cases first; what its config.json says is checked at once.
    base_weights: bf16 and float32 are `dtype` by another name; int8, fp8 and nf4 quantise the linear layers of the transformer.
    attention: kernel of diffusers' attention, None its own choice.

    Raises UsageError (unknown name, wrong class, a model of two experts), MachineError (weights not here, or a library that
    quantises), ArtifactError.
    """
    device = _checked_device(device)
    dtype = _DTYPES.get(base_weights or "", dtype) or weights_dtype(device)
    entry = resolve_entry(name_or_path)
    refuse_reversal(entry, reversed_references)
    require_library(base_weights, device)
    check_attention(attention)
    if entry.loader:
        refuse_numerics(entry, base_weights, attention)
        found = load(entry.loader, "the base")(entry, device=device, dtype=dtype)
        if with_transformer:
            found.load_transformer()
        return found
    main, parts = find_parts(entry)
    entry = dataclasses.replace(entry, revision=snapshot_commit(main))
    vae_dtype = getattr(torch, vae_dtype) if isinstance(vae_dtype, str) else vae_dtype
    vae = _load_vae(parts["vae"], entry, vae_dtype)
    config = transformer_config(entry, main, parts.get("transformer"))
    _check_fit(entry, config, vae)

    def read_transformer() -> Any:
        transformer = _load_transformer(entry, main, parts.get("transformer"), dtype)
        if base_weights in QUANTISED:
            quantise(transformer, base_weights, device)
        if attention is not None:
            set_attention(transformer, attention, device)
        return transformer.eval().requires_grad_(False).to(device)

    text_encoder = TextEncoder(
        parts["text_encoder"],
        parts["tokenizer"],
        entry.text_length,
        dtype=torch.float32 if entry.architecture == "tiny" else torch.bfloat16,
        device=_checked_device(encoder_device or device),
    )
    vae = vae.eval().requires_grad_(False).to(device)
    if vae_tiling:
        vae.enable_tiling()
    base = family_class(entry.family)(
        *(entry, None, vae, text_encoder),
        device=device,
        dtype=dtype,
        tile_if_needed=vae_tiling is None,
        reversed_references=reversed_references,
        transformer_config=config,
        read_transformer=read_transformer,
        encoder_folders=[parts[part] for part in ENCODERS],
        numerics=numerics_of(base_weights, attention),
    )
    if with_transformer:
        base.load_transformer()
    return base


def _checked_device(name: str | torch.device) -> torch.device:
    """Give the device. Raises UsageError for a name that is none, MachineError for a GPU that is not here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"'{name}' is no device", fix="use cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(f"there is no {device} here ({torch.cuda.device_count()} GPUs)", fix="use --device cpu")
    return device


def family_class(family: str) -> "type[WanBase]":
    from idgrpo.bases.phantom import PhantomBase
    from idgrpo.bases.vace import VaceBase

    return {"vace": VaceBase, "phantom": PhantomBase}[family]


def find_parts(entry: BaseEntry) -> tuple[Path, dict[str, Path]]:
    """Find the source and the folder of each component: in the source, else in its companion.

    Raises MachineError that names the first missing part and the command that gets it.
    """
    main = locate(entry.source, entry.revision, PARTS)
    if main is None:
        raise missing_weights(entry, entry.source.partition(":")[2] or entry.source)
    _refuse_two_experts(main)
    folders = [main] if main.is_dir() else []
    folders += _companions(main, entry)
    parts: dict[str, Path] = {}
    for part in PARTS:
        found = next((folder / part for folder in folders if (folder / part).is_dir()), None)
        if found is not None:
            parts[part] = found
    if main.is_file() or "*" in entry.source:
        parts.pop("transformer", None)  # a companion's transformer is another model
        needed = ENCODERS
    else:
        needed = PARTS
        if parts.get("transformer", main).parent != main:
            parts.pop("transformer")
    for part in needed:
        if part not in parts:
            raise missing_weights(entry, f"its {part.replace('_', ' ')}")
    return main, parts


def _refuse_two_experts(main: Path) -> None:
    """Refuse a Wan 2.2 folder: its model is two transformers, or one that takes a time for each token.

    One transformer of the two loads without a complaint and is the wrong one for half of the steps.
    """
    index = main / "model_index.json"
    values = {}
    if index.is_file():
        with reading_weights(index):
            values = dict(parse_json(index.read_text(encoding="utf-8-sig")))
    signs = {
        "transformer_2": (main / "transformer_2").is_dir() or any(values.get("transformer_2") or ()),
        "boundary_ratio": values.get("boundary_ratio") is not None,
        "expand_timesteps": bool(values.get("expand_timesteps")),
    }
    found = [name for name, is_there in signs.items() if is_there]
    if found:
        raise UsageError(
            f"{main} is a Wan 2.2 model ({', '.join(found)}); only models of one transformer (Wan 2.1) can be tuned",
            fix=f"use one of {', '.join(name for name in ENTRIES if not name.startswith('tiny'))}, or a folder like theirs",
        )


def _companions(main: Path, entry: BaseEntry) -> list[Path]:
    """Give the folders that may hold what the source lacks: model_index's `_companion`, siblings, the entry's."""
    folders = []
    index = main / "model_index.json"
    if index.is_file():
        with contextlib.suppress(ValueError):
            named = parse_json(index.read_text()).get("_companion")
            folders += [main / named] if named else []
    if main.is_file():
        folders += [main.parent, *sorted(p for p in main.parent.iterdir() if (p / "text_encoder").is_dir())]
    companion = locate(entry.companion, parts=ENCODERS) if entry.companion else None
    return [folder for folder in [*folders, companion] if folder is not None]


def _load_vae(folder: Path, entry: BaseEntry, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKLWan

    _expect_class(folder, "AutoencoderKLWan", entry)
    vae = read_component(AutoencoderKLWan, folder, dtype)
    if entry.architecture != "tiny":
        vae.enable_slicing()  # clips of a batch one after the other: the decoder's memory is that of one clip
    return vae


def transformer_config(entry: BaseEntry, main: Path, folder: Path | None) -> dict[str, Any]:
    """Give a transformer's configuration without its weights, from `find_parts`. Raises UsageError for another class."""
    if folder is None:
        return original_config(main, entry)
    import diffusers

    class_name = CLASS_OF_FAMILY[entry.family]
    _expect_class(folder, class_name, entry)
    known = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    defaults = {name: known[name].default for name in known if known[name].default is not inspect.Parameter.empty}
    return defaults | read_config(folder)


def _load_transformer(entry: BaseEntry, main: Path, folder: Path | None, dtype: torch.dtype) -> Any:
    import diffusers

    if folder is None:
        model: Any = load_original_transformer(main, entry, dtype)
    else:
        model = read_component(getattr(diffusers, CLASS_OF_FAMILY[entry.family]), folder, dtype)
    # What keeps its own type, such as norms in float32, may still lie in the mapped file and hold the whole of it in memory.
    for weight in model.parameters():
        if weight.dtype != dtype:
            weight.data = weight.data.clone()
    return model


def _expect_class(folder: Path, expected: str, entry: BaseEntry) -> None:
    """Refuse a component of another class than the base needs."""
    found = read_config(folder).get("_class_name")
    if found != expected:
        raise UsageError(
            f"base '{entry.name}': {folder} holds a {found}, this base needs a {expected}",
            fix=f"use --base with the family that fits ({', '.join(CLASS_OF_FAMILY)})",
        )


def read_component(model_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Read a diffusers component; any missing, unexpected or not finite weight is an error that lists it."""
    with reading_weights(folder):
        model, info = model_class.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, output_loading_info=True
        )
    problems = [
        f"{kind}: {', '.join(sorted(map(str, info[kind]))[:8])} ({len(info[kind])} in all)"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info.get(kind)
    ]
    if problems:
        raise ArtifactError(
            f"weights at {folder} do not fit {model_class.__name__}: {'; '.join(problems)}",
            fix="config.json and the weight files are from different models; get both again",
        )
    refuse_not_finite(model.state_dict(), folder)
    return model


def _check_fit(entry: BaseEntry, config: Mapping[str, Any], vae: Any) -> None:
    """Refuse a transformer whose channels do not fit the VAE: another task's model of the same class."""
    geometry = Geometry.of(vae.config, config)
    expected = {"in_channels": geometry.z}
    if entry.family == "vace":
        expected["vace_in_channels"] = 2 * geometry.z + geometry.mask_channels
    for name, value in expected.items():
        found = config[name]
        if found != value:
            raise UsageError(
                f"base '{entry.name}': the transformer's {name} is {found}, its VAE makes {value}",
                fix="this checkpoint is for another task (image-to-video, say) or its VAE is another model's",
            )

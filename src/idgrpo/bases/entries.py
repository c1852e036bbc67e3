"""The named bases: where their weights are and what their authors publish as defaults. Imports no torch."""

import dataclasses
import difflib
from pathlib import Path

from idgrpo.bases.architectures import CLASS_OF_FAMILY
from idgrpo.bases.contract import BaseEntry, Guidance, VideoSize
from idgrpo.bases.weights import WEIGHTS_ENV, reading_weights
from idgrpo.errors import MachineError, UsageError
from idgrpo.plugins import installed, load
from idgrpo.records.document import parse_json

WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，"
    "杂乱的背景，三条腿，背景人很多，倒着走"
)
"""The negative prompt that the Wan repositories ship and that VACE and Phantom use."""

_COMPANION_DOWNLOAD = (
    "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --include 'model_index.json' 'vae/*' 'text_encoder/*' 'tokenizer/*'"
)


def _full_size(name: str, family: str, **changes) -> BaseEntry:
    """Give an entry with the defaults of the Wan 2.1 family; `changes` say what differs."""
    values = {
        "name": name,
        "family": family,
        "companion": None,
        "revision": None,
        "size": VideoSize(832, 480, 81),
        "train_size": VideoSize(416, 240, 33),
        "fps": 16,
        "num_steps": 50,
        "text_length": 512,
        "min_reference_px": 64,
        "max_references": 4,
        "negative_prompt": WAN_NEGATIVE_PROMPT,
        "lossless": False,
    }
    return BaseEntry(**(values | changes))


def _tiny(name: str, family: str) -> BaseEntry:
    """Give an entry of the embedded world: 32x32 pixels, 9 frames, shipped inside the package."""
    return _full_size(
        name,
        family,
        source=f"package:tinyworld/checkpoints/{name}",
        companion="package:tinyworld/checkpoints/tiny-wan",
        architecture="tiny",
        size=VideoSize(32, 32, 9),
        train_size=VideoSize(32, 32, 9),
        shift=3.0,
        num_steps=8,
        guidance=Guidance(mode="none"),
        text_length=16,
        min_reference_px=16,
        negative_prompt="",
        lossless=True,
        download="reinstall idgrpo: the tiny checkpoints are part of the package",
        download_size="a few MB",
    )


ENTRIES: dict[str, BaseEntry] = {
    entry.name: entry
    for entry in (
        _full_size(
            "vace",
            "vace",
            source="hub:Wan-AI/Wan2.1-VACE-1.3B-diffusers",
            architecture="vace-1.3b",
            shift=3.0,
            guidance=Guidance(scale=5.0),
            download="hf download Wan-AI/Wan2.1-VACE-1.3B-diffusers",
            download_size="transformer 2.15 G parameters, UMT5-XXL text encoder 11.4 GB in bf16, VAE 0.5 GB",
        ),
        _full_size(
            "vace-14b",
            "vace",
            source="hub:Wan-AI/Wan2.1-VACE-14B-diffusers",
            architecture="vace-14b",
            shift=5.0,
            guidance=Guidance(scale=5.0),
            download="hf download Wan-AI/Wan2.1-VACE-14B-diffusers",
            download_size="transformer 17.3 G parameters, UMT5-XXL text encoder 11.4 GB in bf16, VAE 0.5 GB",
        ),
        _full_size(
            "phantom",
            "phantom",
            source="hub:bytedance-research/Phantom/Phantom-Wan-1.3B.pth",
            companion="hub:Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            architecture="wan-1.3b",
            shift=5.0,
            guidance=Guidance(scale=7.5, image_scale=5.0),
            download=f"hf download bytedance-research/Phantom Phantom-Wan-1.3B.pth && {_COMPANION_DOWNLOAD}",
            download_size="transformer 5.7 GB (float32), UMT5-XXL text encoder 11.4 GB in bf16, VAE 0.5 GB",
        ),
        _full_size(
            "phantom-14b",
            "phantom",
            source="hub:bytedance-research/Phantom/Phantom_Wan_14B*.safetensors",
            companion="hub:Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            architecture="wan-14b",
            size=VideoSize(832, 480, 121),
            fps=24,
            shift=5.0,
            guidance=Guidance(scale=7.5, image_scale=5.0),
            download=(
                "hf download bytedance-research/Phantom --include 'Phantom_Wan_14B*.safetensors' "
                f"'Phantom_Wan_14B*.json' && {_COMPANION_DOWNLOAD}"
            ),
            download_size="transformer 14.3 G parameters, UMT5-XXL text encoder 11.4 GB in bf16, VAE 0.5 GB",
        ),
        _tiny("tiny-vace", "vace"),
        _tiny("tiny-phantom", "phantom"),
    )
}


def installed_entry(name: str) -> BaseEntry | None:
    """Give the base that an installed package brings under a name. Raises UsageError when it cannot be imported, or is none."""
    target = installed("idgrpo.bases").get(name)
    if target is None or name in ENTRIES:
        return None
    entry = load(target, "the base")
    if not isinstance(entry, BaseEntry):
        raise UsageError(f"the base {name} ({target}) is no BaseEntry", fix="see docs/extend.md")
    return dataclasses.replace(entry, name=name)


def entry_named(name: str) -> BaseEntry:
    """Give the entry of a name. Raises UsageError that names the nearest known one."""
    if name in ENTRIES:
        return ENTRIES[name]
    known = [*ENTRIES, *installed("idgrpo.bases")]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UsageError(
        f"unknown base '{name}'",
        fix=f"{hint}known: {', '.join(known)}; or the path of a checkpoint (a folder or one file)",
    )


def entry_for_checkpoint(family: str, hidden_size: int, path: str) -> BaseEntry:
    """Give the entry for a checkpoint at a path: defaults of the named base of that family and width.

    A transformer narrower than 1,024 is taken for one of the embedded world.
    """
    if hidden_size < 1024:
        like = ENTRIES[f"tiny-{family}"]
    else:
        like = ENTRIES[family if hidden_size < 4096 else f"{family}-14b"]
    companion = None if like.name.startswith("tiny") else like.companion
    return dataclasses.replace(like, name=path, source=path, companion=companion, revision=None)


def resolve_entry(name_or_path: str) -> BaseEntry:
    """Give the entry of a name, a name with `@commit`, or a path. Raises UsageError, ArtifactError."""
    name, _, revision = name_or_path.partition("@")
    if name in ENTRIES:
        if revision and not ENTRIES[name].source.startswith("hub:"):
            raise UsageError(f"{name} ships with idgrpo and has no revisions", fix=f"say {name}")
        return dataclasses.replace(ENTRIES[name], revision=revision or None)
    if (found := installed_entry(name_or_path)) is not None:
        return found
    path = Path(name_or_path)
    try:
        is_there = path.exists()
    except (OSError, ValueError):  # longer than the system takes, or with a NUL
        is_there = False
    if not is_there:
        return entry_named(name_or_path)  # raises, with the nearest known name
    path = path.resolve()
    config = path / "transformer" / "config.json"
    if path.is_dir() and config.is_file():
        with reading_weights(config):
            values = parse_json(config.read_text())
            hidden = values["num_attention_heads"] * values["attention_head_dim"]
        return entry_for_checkpoint(_family_of_class(values.get("_class_name"), path), hidden, str(path))
    if path.is_file():
        from idgrpo.bases.single_file import original_hidden_size

        return entry_for_checkpoint("phantom", original_hidden_size(path), str(path))
    raise UsageError(
        f"{path} is no checkpoint of a base: it has no transformer/config.json",
        fix="give a diffusers folder (transformer/, vae/, text_encoder/, tokenizer/) or an original Phantom file",
    )


def _family_of_class(class_name: str | None, path: Path) -> str:
    for family, expected in CLASS_OF_FAMILY.items():
        if class_name == expected:
            return family
    raise UsageError(
        f"{path} holds a {class_name or 'transformer without a class name'}, not a base",
        fix=f"a base is one of {', '.join(CLASS_OF_FAMILY.values())}",
    )


def family_of(name_or_path: str) -> str:
    """Give the named base whose published settings hold for a base: `phantom` for `phantom@<commit>` and for its file.

    Key of `ENTRIES`. Raises what `resolve_entry` raises.
    """
    name = name_or_path.partition("@")[0]
    if name in ENTRIES:
        return name
    entry = resolve_entry(name_or_path)
    if entry.loader:
        return entry.name
    return next(
        like.name for like in ENTRIES.values() if (like.family, like.architecture) == (entry.family, entry.architecture)
    )


def missing_weights(entry: BaseEntry, what: str) -> MachineError:
    """Make the error for weights that are not on this machine: what is missing and the one command that gets it."""
    if not entry.download:
        return MachineError(f"base '{entry.name}': {what} not found", fix="check the path")
    missing = f"base '{entry.name}': {what} is not on this machine ({entry.download_size})"
    if entry.revision is None:
        return MachineError(missing, fix=f"{entry.download}   (or put copies under ${WEIGHTS_ENV})")
    repository = "/".join(entry.source.removeprefix("hub:").split("/")[:2])
    command = entry.download.replace(repository, f"{repository} --revision {entry.revision}", 1)
    return MachineError(f"{missing} at revision {entry.revision}", fix=command)

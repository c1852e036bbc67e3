"""What is at hand for a base on this machine: weights, memory, and what a sample would cost."""

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

from idgrpo.bases.architectures import ARCHITECTURES, WAN_VAE
from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.contract import BaseEntry, BaseWeights
from idgrpo.bases.cost import GIB, Cost, sampling_cost
from idgrpo.bases.geometry import Geometry
from idgrpo.bases.guidance import branch_weights, num_branches
from idgrpo.bases.load import find_parts, resolve_entry, transformer_config
from idgrpo.bases.weights import read_config, snapshot_commit, weights_digest
from idgrpo.errors import MachineError
from idgrpo.plugins import load, source_file


def default_device() -> str:
    """Give `cuda` when a GPU is there, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def gpu_memory_gib(device: str | None) -> float | None:
    """Give the memory of the GPU that would be used, or None on a CPU."""
    import torch

    chosen = torch.device(device or default_device())
    if chosen.type != "cuda" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(chosen).total_memory / GIB


def digest_of_entry(entry: BaseEntry) -> str:
    """Give a digest of the base's weights. Raises MachineError when they are not here."""
    main, parts = find_parts(entry)
    transformer = parts.get("transformer", main)
    if transformer.is_dir() and "transformer" not in parts:
        shards = sorted(transformer.glob(Path(entry.source).name))
        return weights_digest([*shards, parts["vae"]])
    return weights_digest([transformer, parts["vae"]])


def revisions_of_entry(entry: BaseEntry) -> dict[str, str]:
    """Give the hub commit of each part that comes from a hub snapshot; parts in plain folders have none to tell."""
    main, parts = find_parts(entry)
    places = {"transformer": main} | parts
    return {part: commit for part, path in sorted(places.items()) if (commit := snapshot_commit(path)) is not None}


def weights_of_entry(entry: BaseEntry) -> dict[str, Any]:
    """Give what a manifest says about the base's weights: their digest, and the commits they came from.

    Raises MachineError when they are not here.
    """
    if entry.loader:
        return {"weights": _digest_of_loader(entry)}
    return {"weights": digest_of_entry(entry), "revisions": revisions_of_entry(entry)}


def _digest_of_loader(entry: BaseEntry) -> str:
    """Hash the file that loads a base of another package, and the weights at its source where that is a path."""
    import hashlib

    file, source = source_file(load(entry.loader, "the base")), Path(entry.source)
    digest = hashlib.sha256(Path(file).read_bytes() if file else entry.loader.encode())
    if source.exists():
        digest.update(weights_digest([source]).encode())
    return digest.hexdigest()


def configs_of_entry(entry: BaseEntry) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the configurations (transformer, VAE): from disk where the weights are, else the published ones.

    Raises ArtifactError for a damaged config.json.
    """
    try:
        main, parts = find_parts(entry)
    except MachineError:
        if entry.architecture not in ARCHITECTURES:
            raise
        return ARCHITECTURES[entry.architecture], WAN_VAE
    return transformer_config(entry, main, parts.get("transformer")), read_config(parts["vae"])


def cost_of_entry(
    entry: BaseEntry,
    sampler: SamplerConfig,
    *,
    num_references: int,
    memory_gib: float | None = None,
    vae_dtype: str = "float32",
    encoder_device: str | None = None,
    base_weights: BaseWeights | None = None,
) -> Cost:
    """Estimate the cost of one sample; needs no weights for the public bases. Checks the size (UsageError).

    memory_gib: that of the GPU, from which the batch follows when the sampler names none. encoder_device: `cpu` leaves the text
    encoder out of its memory.
    """
    transformer, vae = configs_of_entry(entry)
    geometry = Geometry.of(vae, transformer)
    size = sampler.size(entry)
    geometry.check(size)
    guidance = sampler.guidance_for(entry)
    weights = branch_weights(entry.family, guidance)
    return sampling_cost(
        transformer,
        geometry,
        size,
        num_references=num_references,
        num_branches=num_branches(weights, guidance.mode),
        num_steps=sampler.resolved(entry).num_steps,
        text_length=entry.text_length,
        batch_size=sampler.batch_size,
        memory_bytes=None if memory_gib is None else int(memory_gib * GIB),
        base_weights=base_weights,
        vae_bytes_per_value=2 if vae_dtype == "bfloat16" else 4,
        **(_sizes_of_tiny(entry) if entry.architecture == "tiny" else {"bytes_per_weight": 2})
        | ({"text_encoder_bytes": 0} if encoder_device == "cpu" else {}),
    )


def _sizes_of_tiny(entry: BaseEntry) -> dict[str, int]:
    """Measure what the public sizes do not tell: the other parts of a tiny base, as large in memory as on disk."""
    _, parts = find_parts(entry)
    sizes = {
        name: sum(path.stat().st_size for path in parts[name].glob("*.safetensors")) for name in ("text_encoder", "vae")
    }
    return {"bytes_per_weight": 4} | {f"{name}_bytes": size for name, size in sizes.items()}


def cost_lines(
    entry: BaseEntry,
    sampler: SamplerConfig,
    cost: Cost,
    num_references: int,
    memory_gib: float | None,
    base_weights: BaseWeights | None = None,
) -> list[str]:
    """Say the cost to people, and the setting that would fit when this one does not."""
    if sampler.batch_size is None and memory_gib is not None:
        cost = cost_of_entry(
            entry, sampler, num_references=num_references, memory_gib=memory_gib, base_weights=base_weights
        )
    size = sampler.size(entry)
    lines = [
        f"{size} with {num_references} references: {cost.num_tokens:,} tokens; {cost.num_branches} guidance branches x "
        f"{cost.num_steps} steps = {cost.sample_tflop:,.4g} TFLOP per sample (transformer only)",
        f"memory, estimated: {cost.memory_gib:.2f} GiB for batches of {cost.batch_size} "
        f"(transformer weights {cost.transformer_gib:.2f} GiB{f', {base_weights}' if base_weights else ''})",
    ]
    if memory_gib is None:
        return [*lines, "no GPU here: the CPU would do it"]
    if cost.memory_gib <= memory_gib:
        return [*lines, f"this GPU has {memory_gib:.1f} GiB: fits"]
    return [
        *lines,
        f"this GPU has {memory_gib:.1f} GiB: does not fit; "
        f"{_what_fits(entry, sampler, cost.batch_size, num_references, memory_gib, base_weights)}",
    ]


def _what_fits(
    entry: BaseEntry,
    sampler: SamplerConfig,
    present: int,
    num_references: int,
    memory_gib: float,
    base_weights: BaseWeights | None,
) -> str:
    """Name the mildest change that fits: a smaller batch, the text encoder on the CPU, then the training size."""
    size = entry.train_size
    sizes: tuple[tuple[str, dict[str, int]], ...] = (
        ("", {}),
        (f" --size {size}", {"width": size.width, "height": size.height, "frames": size.frames}),
    )
    encoders = (("", None), (" --set encoder_device=cpu", "cpu"))
    for (size_words, size_changes), (encoder_words, device) in itertools.product(sizes, encoders):
        for batch_size in sorted({max(1, present // 2), 1}, reverse=True):
            tried = sampler.model_copy(update=size_changes | {"batch_size": batch_size})
            cost = cost_of_entry(
                entry, tried, num_references=num_references, encoder_device=device, base_weights=base_weights
            )
            if cost.memory_gib <= memory_gib:
                return f"--batch-size {batch_size}{size_words}{encoder_words} would"
    return "no setting does; use a smaller base"


def at_hand(name_or_path: str) -> dict[str, Any]:
    """Report on a base for `doctor`: are its weights here, where, which revision, and what a sample costs."""
    entry = resolve_entry(name_or_path)
    sampler = SamplerConfig()
    report: dict[str, Any] = {"base": entry.name, "family": entry.family, "ready": False}
    try:
        main, parts = find_parts(entry)
        revisions = revisions_of_entry(entry)
    except MachineError as error:
        report |= {"missing": error.message, "get": error.fix}
    else:
        report |= {
            "ready": True,
            "source": str(main),
            "revisions": revisions,
            "parts": {part: str(path) for part, path in parts.items()},
        }
    if report["ready"] or entry.architecture in ARCHITECTURES:
        cost = cost_of_entry(entry, sampler, num_references=2)
        report["cost"] = asdict(cost)
        report["summary"] = cost_lines(entry, sampler, cost, 2, gpu_memory_gib(None))
    return report

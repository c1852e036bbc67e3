"""The generator that `idgrpo distort --base` re-noises clips with: settings from the words, a function for the stage."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from idgrpo.bases.config import SampleConfig
    from idgrpo.distort.config import DistortConfig


def generator_settings(base: str, device: str | None, sets: list[str] | None) -> "tuple[SampleConfig, dict[str, Any]]":
    """Give the settings of a generator and what of them decides the pixels; its weights must be here."""
    from idgrpo.bases.config import SampleConfig
    from idgrpo.bases.inventory import weights_of_entry
    from idgrpo.bases.load import resolve_entry
    from idgrpo.run.config import load_config

    given = {"base": base, "device": device}
    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    settings = load_config(SampleConfig, None, [*(sets or []), *options])
    entry = resolve_entry(settings.named_base)
    sampler = settings.sampler.resolved(entry).model_dump(
        mode="json", exclude={"batch_size", "width", "height", "frames"}
    )
    return settings, {"base": base, "sampler": sampler} | weights_of_entry(entry)


def with_renoise(settings: "DistortConfig", base: str | None) -> "DistortConfig":
    """Put `renoise` into the default mix when there is a generator; refuse a mix that needs one when there is none."""
    from idgrpo.distort.registry import entry_of
    from idgrpo.errors import UsageError

    needing = [name for name in settings.weights() if entry_of(name).needs_generator]
    if base is None:
        if needing:
            raise UsageError(f"{needing[0]} needs a generator", fix="say --base, such as --base tiny-phantom")
        return settings
    if settings.mix or needing:
        return settings
    return settings.model_copy(update={"mix": settings.weights() | {"renoise": 1.0}})


def regenerator(settings: "SampleConfig") -> "Callable[[Tensor, list[Tensor], str, float, int], Tensor]":
    """Load the base and give the function `distort` calls; a clip the base cannot make is skipped with the reason."""
    from idgrpo.bases.generate import renoise
    from idgrpo.bases.inventory import default_device
    from idgrpo.bases.load import load_base
    from idgrpo.distort.contract import NotPossible
    from idgrpo.errors import DataError, UsageError

    base = load_base(settings.named_base, device=settings.device or default_device(), vae_tiling=settings.vae_tiling)

    def regenerate(clip: "Tensor", references: "list[Tensor]", prompt: str, level: float, seed: int) -> "Tensor":
        try:
            return renoise(base, clip, references, prompt, level, seed, sampler=settings.sampler)
        except (DataError, UsageError) as error:
            raise NotPossible(error.message) from error

    return regenerate

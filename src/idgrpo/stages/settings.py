"""Settings of the stages: given as a model, as a mapping of dotted keys, or as the words of a command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from idgrpo.errors import UsageError
from idgrpo.run.config import Config, load_config, to_toml

__all__ = ["STAGES", "Settings", "Words", "settings_of", "settle", "to_toml"]

C = TypeVar("C", bound=Config)
STAGES = {
    "annotate": "idgrpo.annotate.config:AnnotateConfig",
    "distort": "idgrpo.distort.config:DistortConfig",
    "train-rm": "idgrpo.reward.config:RewardModelConfig",
    "train-policy": "idgrpo.policy.config:PolicyConfig",
    "sample": "idgrpo.bases.config:SampleConfig",
    "eval": "idgrpo.evaluate.config:EvaluateConfig",
}


@dataclass(frozen=True)
class Words:
    """Settings as a command line gives them: a TOML file, then `key=value` texts, then options; later ones win."""

    file: Path | None = None
    sets: list[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


Settings = Config | Mapping[str, Any] | Words | None
"""Settings of a stage: its model, dotted keys such as {"sampler.num_steps": 8}, words, or None for the defaults."""


def settle(cls: type[C], settings: Settings, *, preset: C | None = None) -> C:
    """Give the settings model of a stage; all that is wrong is told at once.

    Args:
        preset: what stands where nothing is said, such as a recipe; a model that is given replaces it whole.

    Raises:
        UsageError: unknown keys, values of the wrong kind, or settings that contradict each other.
    """
    if isinstance(settings, cls):
        return settings
    if isinstance(settings, Config):
        raise UsageError(f"settings of this stage are a {cls.__name__}, not a {type(settings).__name__}")
    words = settings if isinstance(settings, Words) else Words(options=settings or {})
    return load_config(cls, words.file, words.sets, base=preset, options=words.options)


def settings_of(stage: str, words: Words) -> Config:
    """Give the settings of a stage called by its command's name; UsageError for an unknown one."""
    if stage not in STAGES:
        raise UsageError(f"there is no stage '{stage}' with a configuration", fix=f"stages: {', '.join(STAGES)}")
    module, _, name = STAGES[stage].partition(":")
    return settle(getattr(import_module(module), name), words)

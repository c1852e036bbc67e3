"""Settings of the stages: given as a model, as a mapping of dotted keys, or as the words of a command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from idgrpo.errors import UsageError
from idgrpo.run.config import Config, load_config, to_toml

if TYPE_CHECKING:
    from idgrpo.policy.config import PolicyConfig

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
    return settle(_model_of(stage), words)


def _model_of(stage: str) -> type[Config]:
    if stage not in STAGES:
        raise UsageError(f"there is no stage '{stage}' with a configuration", fix=f"stages: {', '.join(STAGES)}")
    module, _, name = STAGES[stage].partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class ShownSettings:
    """The settings of a stage and how they are written: see `toml`."""

    config: Config
    live: Mapping[str, Any] | None = None
    here: Mapping[str, Any] = field(default_factory=dict)

    def toml(self) -> str:
        """Write a file that changes nothing when `--config` takes it, with the description of each setting above it.

        Where a recipe fills in what is not said (train-policy) and no base is named, only what was said is live.
        """
        text = to_toml(self.config, comments=True, live=self.live, here=self.here)
        if self.live is None:
            return text
        return "# The recipe of the base decides what is commented out: --base NAME shows its settings.\n" + text


def shown_settings(stage: str, words: Words, *, base: str | None = None, recipe: str | None = None) -> ShownSettings:
    """Give the settings that a stage would use: with a base, those that it fills in too.

    Raises UsageError for a base where the stage takes none, and for a recipe without a base.
    """
    model = _model_of(stage)
    if base is None and recipe is not None:
        raise UsageError("a recipe is made for a base", fix="add --base, such as --base vace")
    if base is None:
        config = settle(model, words)
        return ShownSettings(config, config.model_dump(exclude_unset=True) if stage == "train-policy" else None)
    if stage == "train-policy":
        return _shown_policy(words, base, recipe or "default")
    if stage != "sample" or recipe is not None:
        raise UsageError(f"the settings of {stage} do not depend on a {'base' if recipe is None else 'recipe'}")
    from idgrpo.bases.config import SampleConfig
    from idgrpo.bases.load import resolve_entry

    settled = settle(SampleConfig, Words(words.file, words.sets, {**words.options, "base": base}))
    entry = resolve_entry(settled.named_base)
    filled = settled.sampler.resolved(entry).model_dump()
    none = {f"sampler.{key}": filled[key] for key, value in settled.sampler.model_dump().items() if value is None}
    return ShownSettings(settled, here=none)


def settled_policy(
    base: str, recipe: str, settings: Settings, method: str | None = None, *, is_tiny: bool
) -> "PolicyConfig":
    """Lay settings over the recipe; a file may name the method too, and the preset under it is that of the method."""
    from idgrpo.policy.config import PolicyConfig
    from idgrpo.policy.recipes import recipe as preset

    if method is not None and not isinstance(settings, Config):
        words = settings if isinstance(settings, Words) else Words(options=settings or {})
        if (said := words.options.get("method", method)) != method:
            raise UsageError(f"the settings say method {said}, the call says {method}", fix="leave one of them out")
        settings = replace(words, options={**words.options, "method": method})
    settled = settle(PolicyConfig, settings, preset=preset(recipe, base, tiny=is_tiny))
    if settled.method != "grpo":
        settled = settle(PolicyConfig, settings, preset=preset(recipe, base, tiny=is_tiny, method=settled.method))
    if method is not None and settled.method != method:
        raise UsageError(f"the settings say method {settled.method}, the call says {method}")
    if settled.method != "grpo" and not isinstance(settings, Config):
        _refuse_of_grpo(settings if isinstance(settings, Words) else Words(options=settings or {}), settled.method)
    return settled


def _refuse_of_grpo(words: Words, method: str) -> None:
    """Refuse settings of groups that were named for a method without groups; a file may hold the settings of all methods."""
    named = [*(text.partition("=")[0].strip() for text in words.sets or ()), *words.options]
    for key in named:
        if key.split(".")[0] in ("group", "advantage") or key == "reward.normalise":
            raise UsageError(f"{key} is a setting of method=grpo: it has no effect on {method}", fix="leave it out")


def _shown_policy(words: Words, base: str, recipe: str) -> ShownSettings:
    from idgrpo.bases.load import resolve_entry

    entry = resolve_entry(base)
    settled = settled_policy(base, recipe, words, is_tiny=entry.architecture == "tiny")
    size = entry.train_size._asdict() if settled.method == "grpo" else {}
    none = {f"size.{key}": value for key, value in size.items() if getattr(settled.size, key) is None}
    return ShownSettings(settled, here=none)

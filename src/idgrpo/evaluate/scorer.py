"""Measures that need the pixels: the reward, oracles of an embedded world, anything from outside."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

import torch

from idgrpo.errors import UsageError
from idgrpo.evaluate import SCORERS
from idgrpo.evaluate.measure import MeasureInfo
from idgrpo.records.models import Reference, Sample

ScoreClips = Callable[[Sequence[torch.Tensor], Sequence[Sample], Sequence[float]], list[list[float] | None]]
SCORES_VERSION = 2  # part of the cache key: raise it when the same scorer would score the same clip otherwise


@dataclass(frozen=True)
class ClipScorer:
    """Score whole clips: `score(clips, samples, rates)` gives scores per person (one number for a whole-clip score) or None.

    `rates` are frames per second, one a clip.

    `key` tells versions apart in the cache (a reward model's digest, an import string).
    """

    info: MeasureInfo
    key: str
    score: ScoreClips

    def cache_name(self) -> str:
        return hashlib.sha256(f"{self.info.name}|{self.key}|{SCORES_VERSION}".encode()).hexdigest()[:16]


def load_scorer(name: str) -> ClipScorer:
    """Load a scorer from the registry or an import string: function(clips, references) -> a score per person and clip."""
    target = SCORERS.get(name, name)
    if ":" not in target:
        raise UsageError(f"unknown scorer {name!r} (known: {', '.join(sorted(SCORERS))})")
    module, _, attribute = target.partition(":")
    function: Callable[[list[torch.Tensor], list[list[Reference]]], list[list[float]]] = getattr(
        import_module(module), attribute
    )

    def score(
        clips: Sequence[torch.Tensor], samples: Sequence[Sample], rates: Sequence[float]
    ) -> list[list[float] | None]:
        return [[float(v) for v in row] for row in function(list(clips), [list(s.references) for s in samples])]

    text = " ".join((function.__doc__ or "").split("\n\n")[0].split())
    title = attribute.replace("_", " ").capitalize()
    return ClipScorer(MeasureInfo(attribute, title, "higher", "plugin", text), target, score)


def reward_scorer(
    name: str, key: str, score: Callable[..., list], read_image: Callable[[str], torch.Tensor], measure: str = "reward"
) -> ClipScorer:
    """Wrap a reward's `score(videos, references, prompts, rates)`; a failure stays a missing number, never a made-up one.

    measure: what the report calls it.
    """

    def run(
        clips: Sequence[torch.Tensor], samples: Sequence[Sample], rates: Sequence[float]
    ) -> list[list[float] | None]:
        portraits = [[read_image(r.images[0]) for r in s.references] for s in samples]
        results = score(list(clips), portraits, [s.prompt for s in samples], list(rates))
        return [[float(r)] if isinstance(r, int | float) and math.isfinite(r) else None for r in results]

    definition = "Score of the trained reward model: an un-anchored logit, the very thing training maximises. Never proof of a gain."
    title = f"Reward ({name})" if measure == "reward" else f"Reward {measure} ({name})"
    return ClipScorer(MeasureInfo(measure, title, "higher", "reward", definition, signed=True), key, run)

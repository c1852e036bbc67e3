"""Direct preference optimisation on stored pairs of clips, in the form for flow models (Flow-DPO, arXiv 2501.13918).

The two clips of a preference are noised to one level with one noise. What the policy gained on a clip over the frozen
reference (the base: adapters off) is the implicit score of the clip,

    score = beta [log p(x0 | x) - log p_ref(x0 | x)] = -beta/2 [|v - u|^2 - |v_ref - u|^2],   u = noise - x0

and the gap of the two scores goes into a pair loss of the reward model (`loss.dpo_terms`): `bradley_terry` is DPO (arXiv 2305.18290),
`rao_kupper` and `davidson` also learn from ties. Errors are means over elements, as in Diffusion-DPO (arXiv 2311.12908).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from idgrpo.bases.conditions import ConditionsCache
from idgrpo.bases.contract import Base, Condition, VideoSize
from idgrpo.bases.generate import draw_noise
from idgrpo.policy.clips import StoredPair, clips_in
from idgrpo.policy.replay import Pairs
from idgrpo.policy.stored import ClipBook, Place, StoredSource


class PairBook(ClipBook):
    """Preferences of a run, with each clip encoded once however many of them it is in."""

    def __init__(
        self,
        base: Base,
        preferences: Sequence[StoredPair],
        size: VideoSize,
        folder: Path,
        cache: ConditionsCache | None = None,
    ):
        clips = {clip.shown: clip for clip in clips_in(preferences)}
        super().__init__(base, list(clips.values()), size, folder, cache)
        self.preferences = list(preferences)
        places = {shown: place for place, shown in enumerate(clips)}
        self.sides = [(places[pair.a.shown], places[pair.b.shown]) for pair in preferences]


class PairSource(StoredSource):
    """Gives preferences: of each, clip a and clip b in neighbouring rows, at one level and with one noise."""

    rows_per_item = 2
    book: PairBook

    @cached_property
    def names(self) -> Sequence[str]:
        return [pair.id for pair in self.book.preferences]

    def condition(self, item: int) -> Condition:
        return self.book.condition(self.book.sides[item][0])

    def _pairs(self, number: int, places: list[Place], conditions: Mapping[int, Condition]) -> Pairs:
        rows = [place for place in places for _ in range(2)]
        batch = self.base.collate([conditions[place.item] for place in rows])
        clips = [clip for place in places for clip in self.book.sides[place.item]]
        clean = torch.stack([self.book.latents(clip) for clip in clips])
        noise = draw_noise(self.base, batch, [self._draws("noise", number, place) for place in rows])
        labels = [self.book.preferences[place.item].label for place in places]
        return self._noised(clean, noise, rows, batch, labels=torch.tensor(labels, device=self.base.device))

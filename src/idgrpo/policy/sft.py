"""Supervised fine-tuning: every stored clip is a finished sample with advantage 1.

The loss of a pair is flow matching: |v - (noise - x0)|^2 / 2 (Lipman et al. 2023, arXiv 2210.02747). With `clips.guidance`
the clip is first moved along what, in the reference policy's eyes, tells its people apart (`replay.apart`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from idgrpo.bases.contract import Condition
from idgrpo.bases.generate import draw_noise
from idgrpo.policy.replay import Pairs
from idgrpo.policy.stored import Place, StoredSource
from idgrpo.run.draws import seed_of


class ClipSource(StoredSource):
    """Gives stored clips, each to be learnt as it is or moved by `clips.guidance`."""

    @cached_property
    def names(self) -> Sequence[str]:
        return [clip.id for clip in self.book.clips]

    def condition(self, item: int) -> Condition:
        return self.book.condition(item)

    def _pairs(self, number: int, places: list[Place], conditions: Mapping[int, Condition]) -> Pairs:
        setting, own = self.config.clips, [conditions[place.item] for place in places]
        batch = self.base.collate(own)
        clean = torch.stack([self.book.latents(place.item) for place in places])
        noise = draw_noise(self.base, batch, [self._draws("noise", number, place) for place in places])
        rival = None
        if setting.guidance:  # also where one person is alone, as themselves: ranks make equally many forwards
            stands = [seed_of(*self._draws("person", number, place)) for place in places]
            rival = self.base.collate([one_for_all(known, who) for known, who in zip(own, stands, strict=True)])
        return self._noised(
            clean, noise, places, batch, rival=rival, rival_weight=setting.guidance, clip_share=setting.share
        )


def one_for_all(condition: Condition, who: int) -> Condition:
    """Give a condition in which the person `who` (modulo their number) stands in everybody's place."""
    count = condition.num_references
    return replace(condition, references=condition.references[:, [who % count] * count], key="")

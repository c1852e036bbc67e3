"""From preference records to batches: clips decoded on demand, both clips of a pair together."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from idgrpo.records.preference import Preference
from idgrpo.reward.copies import frozen_copy
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.losses import INVALID, TIE, A, B, takes_ties
from idgrpo.video.read import read_image, read_video

LABELS = {"a": A, "b": B, "tie": TIE}


@dataclass(frozen=True)
class Clip:
    """One video to be judged: its file, one photo file per person, the text it was made from.

    `at_rest`: the photos themselves are shown in the video's place.
    """

    video: str
    photos: tuple[str, ...]
    prompt: str
    at_rest: bool = False


class CopyPair(Preference):
    """A clip against its own photos at rest, side b."""


def clips_of(preference: Preference) -> tuple[Clip, Clip]:
    """Return both clips of a pair; of each person the first photo is shown."""
    photos = tuple(reference.images[0] for reference in preference.references)
    copied = isinstance(preference, CopyPair)
    return Clip(preference.video_a, photos, preference.prompt), Clip(
        preference.video_b, photos, preference.prompt, at_rest=copied
    )


def copies_of(preferences: Sequence[Preference], share: float) -> list[CopyPair]:
    """Return, for a share of the decided pairs, the better clip against its photos at rest, which must lose.

    Nobody has to label these: a copy of the photos is no video of the people. Without them a policy may be drawn towards
    copies, which are more alike than what it makes. Sources are those of the pairs, so that mixes treat both alike. The draw
    knows no seed: features serve every seed.
    """
    decided = [p for p in preferences if p.label in ("a", "b")]
    chosen = random.Random("copies").sample(decided, round(share * len(decided)))
    made = []
    for pair in chosen:
        better = pair.video_a if pair.label == "a" else pair.video_b
        own = {"pair_id": f"{pair.pair_id}.copy", "video_a": better, "video_b": better, "label": "a"}
        made.append(CopyPair(**dict(pair) | own | {"votes": {}, "distortion": "static_copy", "strength": None}))
    return made


def label_code(preference: Preference, loss: str, both_bad: str) -> int:
    """Return A, B, TIE or INVALID, the label as the loss reads it.

    `both_bad` says that no side is better; scores have no zero point, so that both are *bad* cannot be used. It is a
    tie, or left out where the configuration says `skip`. Ties are left out where the loss has none.
    """
    label = preference.label
    if label == "both_bad":
        if both_bad == "skip":
            return INVALID
        label = "tie"
    code = LABELS[label]
    return INVALID if code == TIE and not takes_ties(loss) else code


def read_clip(clip: Clip) -> tuple[Tensor, list[Tensor]]:
    """Decode a clip, uint8 "frame channel height width", and its photos, uint8 "channel height width"."""
    video, photos = read_video(Path(clip.video)), [read_photo(path) for path in clip.photos]
    return (frozen_copy(video, photos) if clip.at_rest else video), photos


@lru_cache(maxsize=2048)
def read_photo(path: str) -> Tensor:
    """Decode one photo; cached, because a case has many pairs."""
    return read_image(Path(path))


class PairClips(Dataset):
    """The pairs of a run in the order in which they are drawn."""

    def __init__(self, preferences: Sequence[Preference], codes: Sequence[int], order: Sequence[int]):
        self.preferences = preferences
        self.codes = codes
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, draw: int) -> dict:
        index = self.order[draw]
        first, second = clips_of(self.preferences[index])
        video_a, photos = read_clip(first)
        return {
            "videos": (video_a, read_clip(second)[0]),
            "photos": photos,
            "prompt": first.prompt,
            "label": self.codes[index],
        }


class PairCollator:
    """Build one batch: all first clips, then all second clips, in one forward; `labels` one per pair."""

    def __init__(self, builder: InputBuilder):
        self.builder = builder

    def __call__(self, items: Sequence[dict]) -> dict[str, Tensor]:
        """Return the built inputs and labels of these pairs."""
        photos, prompts = [item["photos"] for item in items], [item["prompt"] for item in items]
        videos = [item["videos"][side] for side in (0, 1) for item in items]
        inputs = self.builder.build(videos, photos * 2, prompts * 2)
        inputs["labels"] = torch.tensor([item["label"] for item in items])
        return inputs


class FeaturePairs(Dataset):
    """Feature differences f_A - f_B of pairs, in the order in which they are drawn."""

    def __init__(self, differences: Tensor, codes: Sequence[int], order: Sequence[int]):
        self.differences = differences
        self.codes = torch.tensor(codes)
        self.order = torch.tensor(order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitems__(self, draws: list[int]) -> dict[str, Tensor]:
        """Return a whole batch at once; the loader calls this where it exists."""
        index = self.order[torch.tensor(draws)]
        return {"difference": self.differences[index], "labels": self.codes[index]}

    def __getitem__(self, draw: int) -> dict[str, Tensor]:
        return self.__getitems__([draw])


def keep_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Collate a batch that `FeaturePairs` already made."""
    return batch

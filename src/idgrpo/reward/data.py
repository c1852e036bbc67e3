"""From preference records to batches: which clips, which labels, drawn in which order, decoded on demand."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from idgrpo.errors import DataError
from idgrpo.records.models import Preference
from idgrpo.records.remember import remembered
from idgrpo.reward.inputs import InputBuilder, SeenClip
from idgrpo.reward.losses import INVALID, TIE, A, B, takes_ties
from idgrpo.reward.preprocess import Preprocessing
from idgrpo.video.probe import VideoInfo, probe
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


class PersonPair(Preference):
    """One person of a pair, asked about alone: kept on one side, and not on the other."""


def person_pairs(preferences: Iterable[Preference]) -> list[PersonPair]:
    """Return a pair for each person who was kept in one clip and changed, mixed or missing in the other.

    Only this person's photo is asked for, so the score says how well they are kept whoever else is in the clip. It says
    nothing about pairs in which a person was kept, or was not, on both sides.
    """
    made = []
    for pair in preferences:
        fates = pair.people or {}
        both = zip(pair.references, fates.get("a", ()), fates.get("b", ()), strict=False)
        for place, (reference, a, b) in enumerate(both):
            if a is None or b is None or (a == "kept") == (b == "kept"):
                continue
            own: dict[str, Any] = {
                "pair_id": f"{pair.pair_id}.person{place}",
                "references": [reference],
                "votes": {},
                "people": None,
            }
            made.append(PersonPair(**dict(pair) | own | {"label": "a" if a == "kept" else "b"}))
    return made


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
        made.append(
            CopyPair(**dict(pair) | own | {"votes": {}, "people": None, "distortion": "static_copy", "strength": None})
        )
    return made


def frozen_copy(video: Tensor, photos: Sequence[Tensor]) -> Tensor:
    """Return a clip of the video's size that shows the photos side by side and never moves: the cheapest clip that is alike."""
    frames, _, height, width = video.shape
    edges = [round(i * width / len(photos)) for i in range(len(photos) + 1)]
    frame = torch.full((3, height, width), 255, dtype=torch.uint8)
    for photo, left, right in zip(photos, edges, edges[1:], strict=False):
        scale = min(height / photo.shape[1], (right - left) / photo.shape[2])
        size = [max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[2] * scale))]
        small = functional.interpolate(photo[None].float(), size=size, mode="bilinear", antialias=True)[0]
        top = height - size[0]
        middle = left + (right - left - size[1]) // 2
        frame[:, top:, middle : middle + size[1]] = small.round().clamp(0, 255).to(torch.uint8)
    return frame.expand(frames, -1, -1, -1).contiguous()


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


def synthetic_share(mix: str, progress: float, random_share: float = 0.5) -> float:
    """Return the probability that a draw at `progress` in [0, 1) is an automatic pair.

    cosine: alpha = 0.5 (1 + cos(pi t / T)), from 1 to 0, so that training ends on human pairs.
    Source: Identity-GRPO (arXiv 2510.14256), section on the reward model.
    """
    if mix == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return {"random": random_share, "human-only": 0.0, "synthetic-only": 1.0}[mix]


def draw_order(sources: Sequence[str], num_draws: int, *, mix: str, seed: int, random_share: float = 0.5) -> list[int]:
    """Return the index of the pair of every draw of a run; the same arguments give the same order.

    Inside one source, pairs come in shuffled rounds: none comes a second time before all came once. Everything that
    is not `human` counts as automatic. `all` draws from one pool, sources as they come.

    Raises:
        DataError: the mix needs a source that the data does not have.
    """
    rng = random.Random(f"draw-order:{seed}")
    human = [i for i, source in enumerate(sources) if source == "human"]
    synthetic = [i for i, source in enumerate(sources) if source != "human"]
    if mix == "all":
        pool = _rounds(range(len(sources)), rng)
        return [next(pool) for _ in range(num_draws)]
    needed = {"cosine": (human, synthetic), "random": (human, synthetic), "human-only": (human,)}
    if not all(needed.get(mix, (synthetic,))):
        raise DataError(
            f"mix {mix} needs pairs that are not there: {len(human)} human and {len(synthetic)} automatic training pairs",
            fix="use data.mix=all",
        )
    humans, automatic = _rounds(human, rng), _rounds(synthetic, rng)
    order = []
    for draw in range(num_draws):
        share = synthetic_share(mix, draw / num_draws, random_share)
        order.append(next(automatic if rng.random() < share else humans))
    return order


def _rounds(indices: Sequence[int], rng: random.Random) -> Iterator[int]:
    while indices:
        yield from rng.sample(indices, len(indices))


def read_clip(clip: Clip, settings: Preprocessing) -> tuple[SeenClip, list[Tensor]]:
    """Decode the frames of a clip that a model with these settings looks at, and its photos, uint8 "channel height width".

    The file's own frame rate comes with them.

    Raises:
        DataError: a file is missing or cannot be read; the message names it.
    """
    facts = video_facts(clip.video)
    photos = [read_photo(path) for path in clip.photos]
    indices = settings.frame_indices(facts.frames)
    try:
        frames, num_frames = read_video(Path(clip.video), indices=indices), facts.frames
    except DataError:  # fewer frames can be shown than there are packets; a file that is broken says so here
        whole = read_video(Path(clip.video))
        frames, num_frames = whole[settings.frame_indices(len(whole))], len(whole)
    if clip.at_rest:
        frames = frozen_copy(frames, photos)
    return SeenClip(frames, num_frames, facts.fps or None), photos


@remembered(maxsize=1_000_000)
def video_facts(path: str) -> VideoInfo:
    """Return what a video file holds; remembered, because a clean clip stands in many pairs. DataError as `probe`."""
    return probe(Path(path))


@remembered(maxsize=2048)
def read_photo(path: str) -> Tensor:
    """Decode one photo; cached, because a case has many pairs."""
    return read_image(Path(path))


class PairClips(Dataset):
    """The pairs of a run in the order in which they are drawn."""

    def __init__(
        self,
        preferences: Sequence[Preference],
        codes: Sequence[int],
        weights: Sequence[float],
        order: Sequence[int],
        settings: Preprocessing,
    ):
        self.preferences = preferences
        self.codes = codes
        self.weights = weights
        self.order = order
        self.settings = settings

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, draw: int) -> dict:
        index = self.order[draw]
        first, second = clips_of(self.preferences[index])
        video_a, photos = read_clip(first, self.settings)
        return {
            "videos": (video_a, read_clip(second, self.settings)[0]),
            "photos": photos,
            "prompt": first.prompt,
            "label": self.codes[index],
            "weight": self.weights[index],
        }


class PairCollator:
    """Build one batch: all first clips, then all second clips, in one forward; `labels` and `weight` one per pair."""

    def __init__(self, builder: InputBuilder):
        self.builder = builder

    def __call__(self, items: Sequence[dict]) -> dict[str, Tensor]:
        """Return the built inputs and labels of these pairs."""
        photos, prompts = [item["photos"] for item in items], [item["prompt"] for item in items]
        videos = [item["videos"][side] for side in (0, 1) for item in items]
        inputs = self.builder.build(videos, photos * 2, prompts * 2)
        inputs["labels"] = torch.tensor([item["label"] for item in items])
        inputs["weight"] = torch.tensor([item["weight"] for item in items])
        return inputs


class FeaturePairs(Dataset):
    """Feature differences f_A - f_B of pairs, in the order in which they are drawn."""

    def __init__(self, differences: Tensor, codes: Sequence[int], weights: Sequence[float], order: Sequence[int]):
        self.differences = differences
        self.codes = torch.tensor(codes)
        self.weights = torch.tensor(weights)
        self.order = torch.tensor(order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitems__(self, draws: list[int]) -> dict[str, Tensor]:
        """Return a whole batch at once; the loader calls this where it exists."""
        index = self.order[torch.tensor(draws)]
        return {
            "difference": self.differences[index],
            "labels": self.codes[index],
            "weight": self.weights[index],
        }

    def __getitem__(self, draw: int) -> dict[str, Tensor]:
        return self.__getitems__([draw])


def keep_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Collate a batch that `FeaturePairs` already made."""
    return batch

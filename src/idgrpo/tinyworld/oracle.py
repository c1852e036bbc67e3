"""The oracle: an analytic measure of identity by templates of parts, which knows the people by their codes.

Simulated annotators judge by it; evaluation reports it only beside an independent measure (`finder`), because a measure
that taught the reward may not prove the gain. It finds people whoever they are (`spotting`), reads their attributes by
least squares (`parts`), and only then asks whether they are the right ones.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.records.pair import Pair
from idgrpo.records.reference import Reference
from idgrpo.tinyworld.parts import attribute_probabilities
from idgrpo.tinyworld.people import NUM_CHOICES, attributes_of, person_code
from idgrpo.tinyworld.spotting import Track, spot
from idgrpo.video.read import read_video

#                         skin  hair c shape shirt pattern trousers size: how much people look at what
IMPORTANCE = torch.tensor([0.15, 0.20, 0.15, 0.25, 0.10, 0.05, 0.10])
COLOUR_DEVIATION = 0.25  # rms over channels at which two colours begin to look different
SHAPE_ERROR = 1.0  # squared error by which a shape must fit better
ENOUGH_EVIDENCE = 4.0  # a real person explains about 15 and more; the ghost of a missing one 0 to 3
NEAR_PX = 5  # people nearer than this hide each other and may be confused
HIDDEN_WEIGHT = 0.25  # what such a frame counts
CHANGE_COST = 0.5  # of believing that two tracks changed places when they were near


@dataclass(frozen=True)
class Opinion:
    """What the oracle sees in a clip when it looks for given people."""

    assigned: Tensor  # int64 [frame, person], whose track each person is
    alike: Tensor  # [person, frame, attribute], likeness of each person to its track: 1 same, 0 as by chance
    shown: list[list[Tensor]]  # per track and attribute, probabilities [frame, choices]
    cover: Tensor  # [track, frame, h, w], share of a pixel that shows a track
    weight: Tensor  # [frame], mean 1: what a frame counts


def _alike(track: Track, shown: list[Tensor], attributes: Tensor) -> Tensor:
    """Return how alike a track is to people with `attributes` [person, 7]: [frame, person, attribute]."""
    alike = [
        (p[:, choice] - 1 / num) / (1 - 1 / num)
        for p, choice, num in zip(shown, attributes.T, NUM_CHOICES, strict=True)
    ]
    return torch.stack(alike, -1) * (track.evidence / ENOUGH_EVIDENCE).clamp(0, 1).view(-1, 1, 1)


def _best_assignment(likeness: Tensor, weight: Tensor, near: Tensor) -> Tensor:
    """Return whose track each person is, int64 [frame, person], out of likeness [track, frame, person].

    One assignment for the whole clip, except that people who were near each other may have changed places at a cost
    (Viterbi over permutations); weight and near are per frame.
    """
    num_frames, people = likeness.shape[1:]
    options = torch.tensor(list(permutations(range(people))))
    values = likeness[options, :, torch.arange(people)].sum(1).T * weight.unsqueeze(1)  # [frame, option]
    cost = torch.where(torch.eye(len(options), dtype=torch.bool), 0.0, CHANGE_COST)
    total, steps = values[0], []
    for frame in range(1, num_frames):
        may_change = bool(near[frame] or near[frame - 1])
        before = total - (cost if may_change else torch.where(cost > 0, torch.inf, 0.0))  # [now, before]
        best, index = before.max(1)
        steps.append(index)
        total = best + values[frame]
    path = [total.argmax()]
    for back in reversed(steps):
        path.append(back[path[-1]])
    return options[torch.stack(path[::-1])]


@torch.no_grad()
def opinion(clip: Tensor, people: list[str]) -> Opinion:
    """Look for people in a clip uint8 [f, 3, 32, 32]."""
    tracks = spot(clip.float() / 255, len(people))
    attributes = attributes_of(torch.tensor([person_code(person) for person in people]))
    shown = [
        attribute_probabilities(t.windows, t.behind, colour_deviation=COLOUR_DEVIATION, shape_error=SHAPE_ERROR)
        for t in tracks
    ]
    alike = torch.stack([_alike(track, seen, attributes) for track, seen in zip(tracks, shown, strict=True)])
    x = torch.stack([track.x for track in tracks])
    gaps = (x[:, None] - x[None]).abs() + 1000 * torch.eye(len(x), dtype=torch.int64).unsqueeze(-1)
    near = (gaps < NEAR_PX).any(0).any(0)
    weight = torch.where(near, HIDDEN_WEIGHT, 1.0)
    assigned = _best_assignment(alike @ IMPORTANCE, weight, near)
    frames, persons = torch.arange(len(clip)).unsqueeze(1), torch.arange(len(people))
    chosen = alike[assigned, frames, persons].transpose(0, 1)
    return Opinion(assigned, chosen, shown, torch.stack([track.cover for track in tracks]), weight / weight.mean())


def track_attributes(clip: Tensor, people: list[str]) -> Tensor:
    """Return the likeness [person, frame, attribute], at most 1, of each person to the track assigned to it in a clip
    uint8 [f, 3, 32, 32].

    Frames are scaled so that the mean over frames counts a frame in which people hide each other a quarter. 0 is the
    likeness of a person of the street, so single frames may lie below.
    """
    seen = opinion(clip, people)
    return seen.alike * seen.weight.view(1, -1, 1)


def track_scores(clip: Tensor, people: list[str]) -> Tensor:
    """Return the likeness [person, frame] of each person: the attributes weighted by how much people look at them."""
    return track_attributes(clip, people) @ IMPORTANCE


def identity_by_template(clips: list[Tensor], references: list[list[Reference]]) -> list[list[float]]:
    """Return one score in 0..1 per clip and person: the mean likeness over frames."""
    return [
        track_scores(clip, [reference.person for reference in people]).mean(1).clamp(min=0).tolist()
        for clip, people in zip(clips, references, strict=True)
    ]


def pair_gap(pair: Pair) -> float:
    """Return how much better clip a keeps everyone than clip b: the noise-free quality difference."""
    people = tuple(reference.person for reference in pair.references)
    return quality(pair.video_a, people) - quality(pair.video_b, people)


@lru_cache(maxsize=65_536)
def quality(video: str, people: tuple[str, ...]) -> float:
    """Return the likeness in 0..1 of everyone in a video file, mean over people."""
    return float(track_scores(read_video(Path(video)), list(people)).mean(1).clamp(min=0).mean())

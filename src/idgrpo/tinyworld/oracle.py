"""The oracle: an analytic measure of identity by templates of parts, which knows the people by their codes.

Simulated annotators judge by it; evaluation reports it only beside an independent measure (`finder`), because a measure
that taught the reward may not prove the gain. It finds people whoever they are (`spotting`), reads their attributes by
least squares (`parts`), and only then asks whether they are the right ones.
"""

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.errors import DataError
from idgrpo.records.models import Fate, Fates, Pair, Reference
from idgrpo.records.remember import remembered
from idgrpo.tinyworld.parts import attribute_probabilities
from idgrpo.tinyworld.people import NUM_CHOICES, attributes_of, person_code
from idgrpo.tinyworld.scene import SIZE_PX
from idgrpo.tinyworld.spotting import spot
from idgrpo.video.read import read_video

#                         skin  hair c shape shirt pattern trousers size: how much people look at what
IMPORTANCE = torch.tensor([0.15, 0.20, 0.15, 0.25, 0.10, 0.05, 0.10])
COLOUR_DEVIATION = 0.25  # rms over channels at which two colours begin to look different
SHAPE_ERROR = 1.0  # squared error by which a shape must fit better
ENOUGH_EVIDENCE = 4.0  # a real person explains about 15 and more; the ghost of a missing one 0 to 3
NEAR_PX = 5  # people nearer than this hide each other and may be confused
HIDDEN_WEIGHT = 0.25  # what such a frame counts
SEEN = 0.5  # evidence, mean over frames, below which a person counts as missing
KEPT = 0.35  # likeness from which a person counts as kept: 98 % of those in true clips reach it
MIXED = 0.2  # likeness of a track to another person of the case from which the two count as mixed
CHANGE_COST = 0.5  # of believing that two tracks changed places when they were near


@dataclass(frozen=True)
class Sight:
    """What the oracle sees in a clip whoever is asked for; a leading dimension may count clips."""

    shown: Tensor  # [frame, track, choices of all attributes], probabilities
    evidence: Tensor  # [frame, track] in 0..1, how surely somebody is there
    near: Tensor  # bool [frame], whether people hide each other and may be confused

    @property
    def clear(self) -> Tensor:
        """Return how much of a frame can be trusted: [frame], 1 or HIDDEN_WEIGHT."""
        return torch.where(self.near, HIDDEN_WEIGHT, 1.0)

    @property
    def weight(self) -> Tensor:
        """Return what a frame counts: [frame], mean 1."""
        return self.clear / self.clear.mean(-1, keepdim=True)


@dataclass(frozen=True)
class Opinion:
    """Who of the people asked for is which track, and how well each is kept."""

    assigned: Tensor  # int64 [frame, person], whose track each person is
    alike: Tensor  # [person, frame, attribute], likeness of each person to its track: 1 same, 0 as by chance


def likeness(sight: Sight, attributes: Tensor) -> Tensor:
    """Return how alike each track is to people with `attributes` [person, 7]: [frame, track, person, attribute]."""
    shown, num = sight.shown, torch.tensor(NUM_CHOICES)
    column = attributes + num.cumsum(0) - num
    column = column[..., None, None, :, :].expand(*shown.shape[:-1], *attributes.shape[-2:])
    chance = shown.gather(-1, column.flatten(-2)).unflatten(-1, attributes.shape[-2:])
    return (chance - 1 / num) / (1 - 1 / num) * sight.evidence[..., None, None]


def _best_assignment(values: Tensor, near: Tensor) -> Tensor:
    """Return the best option [clip, frame] by `values` [clip, frame, option], the first of them all the way if equal.

    One assignment for the whole clip, except that people who are `near` [clip, frame] each other may have changed places at a
    cost (Viterbi over permutations).
    """
    change = torch.where(torch.eye(values.shape[-1], dtype=torch.bool), 0.0, CHANGE_COST)
    may_change = near[:, 1:] | near[:, :-1]
    total, steps = values[:, 0], []
    for frame in range(1, values.shape[1]):
        allowed = may_change[:, frame - 1, None, None]
        before = total.unsqueeze(1) - torch.where(allowed | (change == 0), change, torch.inf)  # [clip, now, before]
        best, index = before.max(-1)
        steps.append(index)
        total = best + values[:, frame]
    path = [total.argmax(-1, keepdim=True)]
    for back in reversed(steps):
        path.append(back.gather(1, path[-1]))
    return torch.cat(path[::-1], 1)


def opinions(sights: Sight, attributes: Tensor) -> Opinion:
    """Look for people with `attributes` int64 [clip, person, 7] in what was seen of many clips."""
    alike = likeness(sights, attributes)  # [clip, frame, track, person, attribute]
    people = torch.arange(attributes.shape[1])
    options = torch.tensor(list(permutations(people.tolist())))
    values = (alike @ IMPORTANCE)[:, :, options, people].sum(-1) * sights.clear.unsqueeze(-1)
    assigned = options[_best_assignment(values, sights.near)]
    chosen = alike.gather(2, assigned[:, :, None, :, None].expand(-1, -1, 1, -1, alike.shape[-1])).squeeze(2)
    return Opinion(assigned, chosen.transpose(1, 2))


@torch.no_grad()
def look_at(clip: Tensor, num_people: int) -> tuple[Sight, Tensor]:
    """Look at a clip uint8 [f, 3, 32, 32]: what is seen, and the share of a pixel that shows each track, [track, frame, h, w].

    Raises DataError for a clip of another size.
    """
    if clip.shape[-2:] != (SIZE_PX, SIZE_PX):
        height, width = clip.shape[-2:]
        raise DataError(
            f"the oracle reads clips of the embedded world, {SIZE_PX}x{SIZE_PX} pixels; this one has {width}x{height}",
            fix="leave identity_by_template out of `scorers`",
        )
    tracks = spot(clip.float() / 255, num_people)
    shown = [
        torch.cat(
            attribute_probabilities(t.windows, t.behind, colour_deviation=COLOUR_DEVIATION, shape_error=SHAPE_ERROR), -1
        )
        for t in tracks
    ]
    evidence = torch.stack([(track.evidence / ENOUGH_EVIDENCE).clamp(0, 1) for track in tracks], 1)
    x = torch.stack([track.x for track in tracks])
    gaps = (x[:, None] - x[None]).abs() + 1000 * torch.eye(len(x), dtype=torch.int64).unsqueeze(-1)
    sight = Sight(torch.stack(shown, 1), evidence, (gaps < NEAR_PX).any(0).any(0))
    return sight, torch.stack([track.cover for track in tracks])


def batched(sights: list[Sight]) -> Sight:
    """Put what was seen of many clips together."""
    return Sight(*(torch.stack([getattr(sight, name) for sight in sights]) for name in ("shown", "evidence", "near")))


def track_attributes(clip: Tensor, people: list[str]) -> Tensor:
    """Return the likeness [person, frame, attribute], at most 1, of each person to the track assigned to it in a clip
    uint8 [f, 3, 32, 32].

    Frames are scaled so that the mean over frames counts a frame in which people hide each other a quarter. 0 is the
    likeness of a person of the street, so single frames may lie below.
    """
    sight, _ = look_at(clip, len(people))
    attributes = attributes_of(torch.tensor([[person_code(person) for person in people]]))
    return opinions(batched([sight]), attributes).alike[0] * sight.weight.view(1, -1, 1)


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


def pair_fates(pair: Pair) -> Fates:
    """Return what became of each person of a pair in clip a and in clip b."""
    people = tuple(reference.person for reference in pair.references)
    return {"a": list(fates(pair.video_a, people)), "b": list(fates(pair.video_b, people))}


@remembered(maxsize=65_536)
def fates(video: str, people: tuple[str, ...]) -> tuple[Fate, ...]:
    """Return what became of each person in a video file.

    missing: their track explains less than a person does; kept: likeness of KEPT and more; mixed: with the track, or the
    attributes that are not their own, of another person of the case; changed: anything else that is not kept.
    """
    sight, _ = look_at(read_video(Path(video)), len(people))
    attributes = attributes_of(torch.tensor([[person_code(person) for person in people]]))
    found = opinions(batched([sight]), attributes)
    frames = sight.weight / len(sight.weight)
    to_all = likeness(sight, attributes[0]) @ IMPORTANCE  # [frame, track, person]
    seen = sight.evidence.gather(1, found.assigned[0]).T @ frames  # [person]
    told: list[Fate] = []
    for place in range(len(people)):
        own = found.alike[0, place] @ IMPORTANCE @ frames
        tracks = found.assigned[0, :, place]
        others = (to_all[torch.arange(len(tracks)), tracks].T @ frames).tolist()  # [person]
        rival = max([other for other_place, other in enumerate(others) if other_place != place], default=0.0)
        if seen[place] < SEEN:
            told.append("missing")
        elif own >= KEPT:
            told.append("kept")
        else:
            told.append("mixed" if rival >= MIXED else "changed")
    return tuple(told)


@remembered(maxsize=65_536)
def quality(video: str, people: tuple[str, ...]) -> float:
    """Return the likeness in 0..1 of everyone in a video file, mean over people."""
    return float(track_scores(read_video(Path(video)), list(people)).mean(1).clamp(min=0).mean())

"""Clips whose people often differ from the references, and the dense truth about them that pre-training teaches."""

from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from idgrpo.tinyworld.oracle import IMPORTANCE
from idgrpo.tinyworld.people import NUM_CHOICES, attributes_of, code_of, draw_people
from idgrpo.tinyworld.render import Clips, portraits, render
from idgrpo.tinyworld.scene import NUM_FRAMES, Scenes, draw_scenes, prompts
from idgrpo.tinyworld.training.pool import to_bytes

FRAMES = (0, 3, 5, 8)  # the frames that the preprocessing picks out of nine
CELL_PX = 8  # side of what one token of the language model sees
MIN_COVER = 0.15  # share of a cell that a person must cover to be asked about


@dataclass(frozen=True)
class Lesson:
    """A batch of inputs and truth. Slots of the clip are re-ordered so that slot k is matched to reference k."""

    videos: Tensor  # uint8 [batch, frame, 3, h, w], four frames
    references: Tensor  # uint8 [batch, person, 3, h, w]
    asked: Tensor  # int64 [batch, person, attribute], of the references
    shown: Tensor  # int64 [batch, person, frame, attribute]
    present: Tensor  # float [batch, person, frame]
    owner: Tensor  # int64 [batch, frame, cell], the slot that covers most of a cell, -1 for none
    named: Tensor  # int64 [batch, frame, person], the reference that each slot is most like in that very frame

    @property
    def kept(self) -> Tensor:
        """Tell which attributes of a slot are those of the frame before, bool [batch, person, frame - 1, attribute]."""
        return self.shown[:, :, 1:] == self.shown[:, :, :-1]

    @property
    def agreement(self) -> Tensor:
        """Share of frames in which each attribute of each person is as asked: [batch, person, attribute]."""
        same = (self.shown == self.asked.unsqueeze(2)).float()
        return (same * self.present.unsqueeze(-1)).mean(2)


def draw_lesson(generator: torch.Generator, batch: int, num_people: int, *, restless: float = 0.1) -> Lesson:
    """Draw scenes, ask for some people and show others: attribute by attribute, sometimes changing half-way.

    In a share `restless` of the clips everybody changes to and fro: only who follows people can tell what changed.
    """
    plan = _draw_plan(generator, batch, num_people, restless)
    return _lesson(plan, plan.render(torch.tensor(FRAMES)), generator)


def draw_full_lesson(
    generator: torch.Generator, batch: int, num_people: int
) -> tuple[Lesson, Tensor, Tensor, list[str]]:
    """Draw a lesson together with its whole clips [batch, frame, 3, h, w], portraits of those shown first, and prompts."""
    plan = _draw_plan(generator, batch, num_people)
    clips = plan.render(torch.arange(NUM_FRAMES))
    keep = torch.tensor(FRAMES)
    chosen = Clips(clips.pixels[:, keep], clips.visible[:, :, keep], clips.alone[:, :, keep])
    return _lesson(plan, chosen, generator), clips.pixels, portraits(code_of(plan.shown[:, :, 0])), prompts(plan.scenes)


@dataclass(frozen=True)
class _Plan:
    """Who is asked for and who is shown, by slot of the clip and frame."""

    scenes: Scenes
    asked: Tensor  # int64 [batch, slot, attribute]
    shown: Tensor  # int64 [batch, slot, frame, attribute]
    present: Tensor  # float [batch, slot, frame]

    def render(self, keep: Tensor) -> Clips:
        """Draw the frames `keep`."""
        return render(_at_frames(self.scenes, keep), code_of(self.shown[:, :, keep]), presence=self.present[:, :, keep])


def _draw_plan(generator: torch.Generator, batch: int, num_people: int, restless: float = 0.1) -> _Plan:
    scenes = draw_scenes(generator, batch, num_people)
    asked = attributes_of(draw_people(generator, (batch, num_people), held_out=False))
    first, later = _variant(asked, generator), _variant(asked, generator)
    # People who trade places half-way are the hardest to notice and rare by chance.
    exchanged = torch.rand(batch, 1, 1, generator=generator) < 0.4
    later = torch.where(exchanged, first[:, _traded(num_people, generator)], later)
    change = torch.where(
        torch.rand(batch, generator=generator) < 0.5,
        torch.randint(2, NUM_FRAMES, (batch,), generator=generator),
        NUM_FRAMES,
    )
    changed = torch.arange(NUM_FRAMES) >= change.unsqueeze(1)
    flickers = torch.rand(batch, 1, generator=generator) < restless
    changed = torch.where(flickers, torch.rand(batch, NUM_FRAMES, generator=generator) < 0.4, changed)
    changed = changed.view(batch, 1, NUM_FRAMES, 1)
    shown = torch.where(changed, later.unsqueeze(2), first.unsqueeze(2))
    return _Plan(scenes, asked, shown, _presence(batch, num_people, generator))


@torch.no_grad()
def _lesson(plan: _Plan, clips: Clips, generator: torch.Generator) -> Lesson:
    keep = torch.tensor(FRAMES)
    shown, present = plan.shown[:, :, keep], plan.present[:, :, keep]
    match = best_match(plan.asked, shown, present)
    rows = torch.arange(len(match)).unsqueeze(1)
    shown, present = shown[rows, match], present[rows, match]
    photos = portraits(code_of(plan.asked), generator if torch.rand((), generator=generator) < 0.5 else None)
    return Lesson(
        to_bytes(look(clips.pixels, generator)), to_bytes(photos), plan.asked, shown, present,
        cell_owner(clips.visible[rows, match]), _named(plan.asked, shown, present),
    )  # fmt: skip


def _traded(num_people: int, generator: torch.Generator) -> Tensor:
    """Return an order of people in which two of them have traded places: int64 [person]."""
    one, other = torch.randperm(num_people, generator=generator)[:2].tolist()
    order = torch.arange(num_people)
    order[one], order[other] = other, one
    return order


def _variant(asked: Tensor, generator: torch.Generator) -> Tensor:
    """Return who is shown for who is asked [batch, person, attribute]: right, wrong in part or in one thing, exchanged, doubled."""
    batch, people, _ = asked.shape

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    invented = torch.stack([torch.randint(n, (batch, people), generator=generator) for n in NUM_CHOICES], -1)
    partner = asked.roll(1, 1)
    source = torch.where(chance(batch, 1, 1) < 0.5, partner, invented)
    share = chance(batch, people, 1).square() * (chance(batch, people, 1) < 0.75)
    mixed = torch.where(chance(batch, people, 7) < share, source, asked)
    kind = chance(batch, 1, 1)
    doubled = asked[:, torch.randint(people, (1,), generator=generator)].expand_as(asked)
    place = torch.randint(people * asked.shape[2], (batch, 1), generator=generator)
    hit = F.one_hot(place[:, 0], people * asked.shape[2]).bool().view_as(asked)
    single = torch.where(hit, invented, asked)
    rest = torch.where(kind < 0.8, doubled, torch.where(kind < 0.9, partner, asked))
    return torch.where(kind < 0.55, mixed, torch.where(kind < 0.7, single, rest))


def _presence(batch: int, people: int, generator: torch.Generator) -> Tensor:
    """Return who is there in which frame: one person in seven leaves, one in five of those comes back."""
    gone = torch.rand(batch, people, 1, generator=generator) < 0.15
    start = torch.randint(0, NUM_FRAMES, (batch, people, 1), generator=generator)
    length = torch.randint(2, 2 * NUM_FRAMES, (batch, people, 1), generator=generator)
    frame = torch.arange(NUM_FRAMES)
    return 1 - (gone & (frame >= start) & (frame < start + length)).float()


def _at_frames(scenes: Scenes, keep: Tensor) -> Scenes:
    moved = {name: getattr(scenes, name)[..., keep] for name in ("x", "feet", "stride", "facing")}
    return Scenes(scenes.motion, scenes.place, scenes.horizon, scenes.light, **moved, depth=scenes.depth)


def look(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur or sharpen clips [batch, frame, 3, h, w] and add noise, so that none is mistaken for a change of identity.

    A reward that took sharpness for identity would teach a policy harsh pictures.
    """
    batch = len(pixels)
    pixels = soften(pixels, torch.rand(batch, 1, 1, 1, 1, generator=generator) * 2.4 - 1.4)
    noise = torch.rand(batch, 1, 1, 1, 1, generator=generator).square() * 0.05
    return (pixels + noise * torch.randn(pixels.shape, generator=generator)).clamp(0, 1)


def soften(pixels: Tensor, amount: Tensor) -> Tensor:
    """Blend clips [batch, frame, 3, h, w] with their 3x3 blur; an amount [batch, 1, 1, 1, 1] below 0 sharpens (unsharp masking)."""
    weight = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (weight[:, None] * weight).expand(3, 1, 3, 3)
    padded = F.pad(pixels.flatten(0, 1), (1, 1, 1, 1), mode="replicate")
    return torch.lerp(pixels, F.conv2d(padded, kernel, groups=3).view_as(pixels), amount)


def best_match(asked: Tensor, shown: Tensor, present: Tensor) -> Tensor:
    """Return for each reference the slot that shows it best: the assignment with most agreement, int64 [batch, person]."""
    weight = IMPORTANCE * (asked.shape[-1] / IMPORTANCE.sum())
    same = (asked[:, :, None, None] == shown[:, None]).float() * weight  # [batch, reference, slot, frame, attribute]
    score = (same.sum(-1) * present[:, None]).mean(-1)
    people = asked.shape[1]
    options = torch.tensor(list(permutations(range(people))))
    total = score[:, torch.arange(people), options].sum(-1)
    return options[total.argmax(1)]


def _named(asked: Tensor, shown: Tensor, present: Tensor) -> Tensor:
    """Return the reference that each slot is most like, frame by frame: int64 [batch, frame, person]."""
    frames = [best_match(asked, shown[:, :, t : t + 1], present[:, :, t : t + 1]) for t in range(shown.shape[2])]
    return torch.stack(frames, 1).argsort(-1)


def cell_owner(visible: Tensor) -> Tensor:
    """Return who covers most of each 8 px cell, int64 [batch, frame, cell]; -1 where nobody covers MIN_COVER of it."""
    cover = F.avg_pool2d(visible.flatten(0, 2).unsqueeze(1), CELL_PX).flatten(1).view(*visible.shape[:3], -1)
    most, owner = cover.max(1)
    return torch.where(most > MIN_COVER, owner, torch.full_like(owner, -1))

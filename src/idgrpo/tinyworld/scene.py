"""Scenes: where they play, how people move in them, and the prompt that tells both."""

from dataclasses import dataclass

import torch
from torch import Tensor

SIZE_PX = 32
NUM_FRAMES = 9

MOTIONS = ("walk together", "cross", "stand", "meet")
PLACES = ("park", "beach", "street", "snow", "night", "desert")
SKY = torch.tensor(
    [
        [0.60, 0.80, 0.96],
        [0.70, 0.90, 0.98],
        [0.72, 0.74, 0.78],
        [0.86, 0.90, 0.95],
        [0.07, 0.08, 0.18],
        [0.98, 0.84, 0.62],
    ]
)
GROUND = torch.tensor(
    [
        [0.38, 0.62, 0.30],
        [0.90, 0.82, 0.58],
        [0.45, 0.45, 0.47],
        [0.96, 0.97, 0.99],
        [0.20, 0.22, 0.26],
        [0.84, 0.62, 0.36],
    ]
)
HORIZON_PX, LIGHT = (17.5, 20.5), (0.9, 1.06)  # lowest and highest
NUMBER_WORDS = ("one", "two", "three", "four")


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes. Slot 0 stands leftmost in the first frame; positions are pixels from the top left corner."""

    motion: Tensor  # int64 [batch]
    place: Tensor  # int64 [batch]
    horizon: Tensor  # float [batch], y of the horizon
    light: Tensor  # float [batch], brightness factor
    x: Tensor  # float [batch, slot, frame], middle of a person
    feet: Tensor  # float [batch, slot, frame], y of the feet
    stride: Tensor  # float [batch, slot, frame], swing of the legs in [-1, 1]
    facing: Tensor  # float [batch, slot, frame], -1 looks left, +1 looks right
    depth: Tensor  # float [batch, slot], larger is nearer

    def __len__(self) -> int:
        return len(self.motion)

    def __getitem__(self, index: Tensor | slice) -> "Scenes":
        return Scenes(**{name: value[index] for name, value in vars(self).items()})

    @property
    def num_people(self) -> int:
        return self.x.shape[1]

    @property
    def num_frames(self) -> int:
        return self.x.shape[2]


def draw_scenes(generator: torch.Generator, num: int, num_people: int = 2, num_frames: int = NUM_FRAMES) -> Scenes:
    """Draw `num` scenes with everything but the identities of the people in them."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    motion = torch.randint(len(MOTIONS), (num,), generator=generator)
    place = torch.randint(len(PLACES), (num,), generator=generator)
    slots = torch.arange(num_people, dtype=torch.float32)
    home = (slots + 0.5) * SIZE_PX / num_people + uniform(-1.5, 1.5, num, num_people)
    time = torch.linspace(0, 1, num_frames)
    x = _paths(motion, home, time, uniform)
    speed = (x[..., 1:] - x[..., :-1]).abs().mean(-1, keepdim=True)
    phase = uniform(0, 6.283, num, num_people, 1)
    stride = torch.sin(phase + 6.283 * 1.6 * time) * (speed / 0.9).clamp(max=1)
    direction = torch.sign(x[..., -1:] - x[..., :1])
    glance = torch.sign(uniform(-1, 1, num, num_people, 1))
    facing = torch.where(speed > 0.25, direction, 0.5 * glance).expand_as(x)
    depth = torch.rand(num, num_people, generator=generator)
    rank = depth.argsort(1).argsort(1).float()
    feet = (28.0 + 1.2 * rank / max(num_people - 1, 1) * 1.5).unsqueeze(-1) + 0.3 * stride.abs() * -1
    return Scenes(
        motion, place, uniform(*HORIZON_PX, num), uniform(*LIGHT, num), x, feet.expand_as(x), stride, facing, depth
    )


def _paths(motion: Tensor, home: Tensor, time: Tensor, uniform) -> Tensor:
    """Return x [batch, slot, frame] for each motion; `home` holds the evenly spread places."""
    num, num_people = home.shape
    middle = SIZE_PX / 2
    way = torch.sign(uniform(-1, 1, num, 1, 1))
    reach = uniform(5.0, 9.0, num, 1, 1)
    start = home.unsqueeze(-1)
    together = (start - middle) * 0.92 + middle + way * reach * (time - 0.5)
    cross = start + (2 * middle - 2 * start) * time
    stand = start + uniform(-0.6, 0.6, num, num_people, 1) * torch.sin(6.283 * time)
    far = middle + (start - middle) * 1.35
    near = middle + (start - middle) * 0.72
    meet = far + (near - far) * time
    paths = torch.stack([together, cross, stand.expand_as(together), meet], dim=1)
    return paths.gather(1, motion.view(-1, 1, 1, 1).expand(-1, 1, *together.shape[1:])).squeeze(1)


def prompts(scenes: Scenes, order: Tensor | None = None) -> list[str]:
    """Say who does what where; people are named by their number as a reference, from left to right in the first frame.

    `order` int64 [batch, slot] gives the reference number of each slot (default: slot i shows reference i).
    """
    lines = []
    for row in range(len(scenes)):
        numbers = range(scenes.num_people) if order is None else order[row].tolist()
        names = " and ".join(NUMBER_WORDS[number] for number in numbers)
        lines.append(f"{names} {MOTIONS[int(scenes.motion[row])]} in the {PLACES[int(scenes.place[row])]}")
    return lines

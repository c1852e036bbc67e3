"""What a distortion sees and gives."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from idgrpo.distort.pixels import behind
from idgrpo.people.boxes import Box
from idgrpo.people.painter import Identity, IdentityPainter, Script


class NotPossible(Exception):
    """A distortion cannot be done on this clip (one person where two are needed, no stranger); the reason is counted.

    `slot` says whose fault it is, where it is one person's.
    """

    def __init__(self, reason: str, slot: int | None = None):
        super().__init__(reason)
        self.slot = slot


@dataclass(frozen=True)
class Scene:
    """Hold one clean clip with what is known about its people.

    `clip` uint8 [frame, 3, height, width]; `references` one portrait per slot, uint8 [3, h, w]; `regenerate` re-noises the
    clip to a level and denoises it with other references, when a generator is at hand; `faces` are the boxes of the faces in the
    references, where they are known; `likeness` measures from a clip and frames how alike each person is to that person's
    reference, [frame, slot] in 0..1 (0: no more than strangers are; NaN: the person's place is not known).
    """

    clip: torch.Tensor
    painter: IdentityPainter
    references: list[torch.Tensor]
    prompt: str = ""
    regenerate: Callable[[torch.Tensor, list[torch.Tensor], str, float, int], torch.Tensor] | None = None
    faces: tuple[Box | None, ...] = ()
    likeness: Callable[[torch.Tensor, list[int]], np.ndarray] | None = None

    @property
    def num_frames(self) -> int:
        return self.clip.shape[0]

    @property
    def num_slots(self) -> int:
        return len(self.references)

    @cached_property
    def regions(self) -> torch.Tensor:
        """Soft masks of the people, float32 [frame, slot, height, width]."""
        return self.painter.regions()

    @cached_property
    def background(self) -> torch.Tensor:
        """Soft mask of what is behind everybody, float32 [frame, height, width]; 0 on every pixel of a person.

        Of the whole person: a painter whose regions are faces says by `bodies` where the rest of them is.
        """
        bodies = getattr(self.painter, "bodies", None)
        return behind(self.regions if bodies is None else bodies())


@dataclass(frozen=True)
class Outcome:
    """Hold both sides of a pair; at strength 0 both are the clip itself, bit by bit.

    `script` is what was repainted, when people were. `stranger` = (slot, id) when one slot became that stranger in every
    frame: asked for the stranger instead, the worse side is the better one (a mirrored pair).
    """

    better: torch.Tensor
    worse: torch.Tensor
    script: Script | None = None
    stranger: tuple[int, str] | None = None


class Distortion(Protocol):
    """Make one pair. Pure: the same scene, strength in [0, 1] and generator state give the same pixels.

    Draws come from `rng` in an order that does not depend on the strength, so that two strengths of one draw differ in nothing else.
    """

    def __call__(self, scene: Scene, strength: float, rng: np.random.Generator) -> Outcome: ...


def need_people(scene: Scene, num_people: int) -> None:
    """Refuse a scene with too few people."""
    if scene.num_slots < num_people:
        raise NotPossible(f"{scene.num_slots} person in the clip where {num_people} are needed")


def some_slots(scene: Scene, num_slots: int, rng: np.random.Generator) -> list[int]:
    """Draw different slots."""
    need_people(scene, num_slots)
    return [int(k) for k in rng.permutation(scene.num_slots)[:num_slots]]


def some_stranger(scene: Scene, slot: int, hardness: float, rng: np.random.Generator) -> str:
    """Draw a stranger for a slot."""
    stranger = scene.painter.stranger(slot, hardness, int(rng.integers(2**31)))
    if stranger is None:
        raise NotPossible("no stranger at hand: the data has one case only", slot)
    return stranger


def own_weights(scene: Scene, *extra: Identity) -> tuple[np.ndarray, tuple[Identity, ...]]:
    """Write the script that changes nothing: weights [frame, slot, identity] and the identities, `extra` ones at the end."""
    identities = (*(Identity(k) for k in range(scene.num_slots)), *extra)
    weights = np.zeros((scene.num_frames, scene.num_slots, len(identities)), np.float32)
    for slot in range(scene.num_slots):
        weights[:, slot, slot] = 1.0
    return weights, identities


def move(weights: np.ndarray, frames: np.ndarray, slot: int, identity: int, share: np.ndarray | float) -> None:
    """Move `share` (0..1, one number or one per frame) of a slot from its own look to another, in place."""
    share = np.broadcast_to(np.asarray(share, np.float32), (len(frames),))
    weights[frames, slot, slot] = 1 - share
    weights[frames, slot, identity] = share


def repaint(scene: Scene, script: Script, stranger: tuple[int, str] | None = None) -> Outcome:
    """Carry out a script; the better side goes through the same blending with its own look."""
    if not script.touched().any():
        return Outcome(scene.clip, scene.clip, script)
    return Outcome(scene.painter.reblend(script), scene.painter.paint(script), script, stranger)


def window(num_frames: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Choose a run of ceil(share * num_frames) frames around a drawn one; smaller shares lie inside of larger ones."""
    anchor = int(rng.integers(num_frames))
    count = int(np.ceil(round(share * num_frames, 6)))
    order = sorted(range(num_frames), key=lambda t: (abs(t - anchor), t))
    return np.array(sorted(order[:count]), dtype=np.int64)

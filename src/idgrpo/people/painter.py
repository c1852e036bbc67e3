"""Who is drawn where and when: the seam between distortions and the ways to repaint people in a clip.

A distortion never touches pixels of a person itself: it writes a script, `weights[frame, slot, identity]`, and a painter
carries it out. Exact worlds re-render; real videos are composited through masks. So each distortion is written once.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch


@dataclass(frozen=True)
class Identity:
    """Name one look: a person, or a person who borrows some parts from another.

    `source` and `donor` are a slot of the clip (int; slot k is the person of reference k) or the id of a stranger (str)
    that `IdentityPainter.stranger` gave. `parts` (names out of `IdentityPainter.parts`) come from `donor`, the rest
    from `source`; with no parts the look is that of `source` alone.
    """

    source: int | str
    donor: int | str | None = None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Script:
    """Say who is drawn in each slot of each frame.

    `weights` float32 [frame, slot, identity] over `identities`; identity k < number of slots is always `Identity(k)`.
    The sum over identities is the slot's presence (1 drawn, 0 absent, between: that opacity); the proportions are the mix
    of looks. The rows of an untouched slot are one-hot at its own identity.
    """

    weights: np.ndarray
    identities: tuple[Identity, ...]

    def __post_init__(self) -> None:
        num_slots, num_identities = self.weights.shape[1:]
        assert num_identities == len(self.identities) and self.identities[:num_slots] == tuple(
            Identity(k) for k in range(num_slots)
        )
        assert (self.weights >= 0).all() and (self.weights.sum(-1) <= 1 + 1e-5).all()

    def touched(self) -> np.ndarray:
        """Tell which slots change in which frames: bool [frame, slot]."""
        own = np.eye(self.weights.shape[1], self.weights.shape[2], dtype=np.float32)
        return np.any(np.abs(self.weights - own[None]) > 0, axis=-1)


@dataclass(frozen=True)
class Mirrored:
    """Describe a stranger as if the case had asked for that person: with it, the repainted clip becomes the right one."""

    person: str
    portraits: list[torch.Tensor] = field(repr=False)
    prompt: str = ""


@runtime_checkable
class IdentityPainter(Protocol):
    """Repaint people of one clip.

    Painters are deterministic (same script, same pixels) and hold no random state. Shapes: clips uint8 [f, 3, h, w].
    """

    parts: tuple[str, ...]

    def regions(self) -> torch.Tensor:
        """Give the visible soft mask of each slot in the unchanged clip, float32 0..1 [frame, slot, height, width]."""

    def stranger(self, slot: int, hardness: float, draw: int) -> str | None:
        """Choose somebody who is not in the case to stand in for `slot`.

        `hardness` 0 takes anybody, 1 the closest look-alike at hand; `draw` (an integer seed) picks among them. None when
        the painter knows no stranger.
        """

    def paint(self, script: Script) -> torch.Tensor:
        """Draw the clip as the script says.

        Bit-equal to the clip wherever the script does not touch: in frames without touched slots, and outside the old
        and new regions of the touched slots.
        """

    def reblend(self, script: Script) -> torch.Tensor:
        """Put every touched slot through the same resampling and blending, with its own look, for the better side.

        A painter that leaves no trace of its work gives the clip itself.
        """

    def mirrored(self, slot: int, stranger: str, prompt: str) -> Mirrored | None:
        """Describe the stranger as the person asked for in `slot`; None when portraits or the right prompt are not known."""

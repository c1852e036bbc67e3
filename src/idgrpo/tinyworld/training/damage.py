"""Clips whose people differ from the references: the habit that the tiny bases share with the public ones.

A base that only ever saw correct clips would keep identities well, and there would be nothing to align.
"""

import torch
from torch import Tensor

from idgrpo.tinyworld.people import NUM_CHOICES, attributes_of, code_of


def damage(codes: Tensor, generator: torch.Generator, num_frames: int, share: float = 0.5) -> Tensor:
    """Return the people shown, int64 [batch, slot, frame], given the people asked for, [batch, slot].

    A `share` of the clips is damaged: attributes mixed between people, made up, or one person drawn twice; in a quarter
    of those only from some frame on. The others show exactly who was asked for.
    """
    batch, slots = codes.shape
    asked = attributes_of(codes)

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    partner = asked.roll(1, dims=1)
    invented = torch.stack([torch.randint(n, (batch, slots), generator=generator) for n in NUM_CHOICES], -1)
    mixed = torch.where(chance(batch, slots, 7) < 0.4, partner, asked)
    made_up = torch.where((chance(batch, slots, 7) < 0.5) & (chance(batch, slots, 1) < 0.7), invented, asked)
    doubled = asked[:, torch.randint(slots, (1,), generator=generator)].expand_as(asked)
    kind = chance(batch, 1, 1)
    wrong = torch.where(kind < 0.5, mixed, torch.where(kind < 0.85, made_up, doubled))
    wrong = torch.where(chance(batch, 1, 1) < share, wrong, asked)
    late = chance(batch, 1, 1) < 0.25
    start = torch.randint(1, num_frames - 1, (batch, 1, 1), generator=generator)
    from_now = ~late | (torch.arange(num_frames) >= start)
    return torch.where(from_now, code_of(wrong).unsqueeze(-1), codes.unsqueeze(-1))

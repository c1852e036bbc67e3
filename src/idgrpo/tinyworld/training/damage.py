"""Clips whose people differ from the references: the habit that the tiny bases share with the public ones.

A base that only ever saw correct clips would keep identities well, and there would be nothing to align.
"""

import torch
from torch import Tensor

from idgrpo.tinyworld.people import ATTRIBUTES, attributes_of, code_of, draw_people

HEAD = torch.tensor([name in ("skin", "hair colour", "hair shape") for name in ATTRIBUTES])


def damage(codes: Tensor, generator: torch.Generator, num_frames: int, share: float = 0.5) -> Tensor:
    """Return the people shown, int64 [batch, slot, frame], given the people asked for, [batch, slot].

    A `share` of the clips is damaged: strangers instead of people, one person drawn twice, or heads exchanged; in a
    fifth of those only from some frame on. The others show exactly who was asked for.
    """
    batch, slots = codes.shape

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    strangers = torch.where(chance(batch, slots) < 0.7, draw_people(generator, (batch, slots), held_out=False), codes)
    doubled = codes.gather(1, torch.randint(slots, (batch, 1), generator=generator).expand_as(codes))
    asked = attributes_of(codes)
    exchanged = code_of(torch.where(HEAD, asked.roll(1, dims=1), asked))
    kind = chance(batch, 1)
    wrong = torch.where(kind < 0.45, strangers, torch.where(kind < 0.7, doubled, exchanged))
    wrong = torch.where(chance(batch, 1) < share, wrong, codes).unsqueeze(-1)
    late = chance(batch, 1, 1) < 0.2
    start = torch.randint(1, num_frames - 1, (batch, 1, 1), generator=generator)
    from_now = ~late | (torch.arange(num_frames) >= start)
    return torch.where(from_now, wrong, codes.unsqueeze(-1))

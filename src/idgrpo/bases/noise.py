"""Random draws of a batch: each sample's noise depends on its own name only, never on the batch it sits in."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from idgrpo.bases.contract import Base, ConditionBatch
from idgrpo.run.draws import generator


def draw_noise(base: Base, batch: ConditionBatch, names: Sequence[Sequence[int | str]]) -> Tensor:
    """Draw N(0, 1) for each sample of a batch: float32 [batch, channel, frame, height, width] on the base's device.

    names: what each sample's draw is called, such as ("noise", seed, case id) or ("step", seed, case id, sample,
    step); the same name and shape give the same numbers on every machine (drawn on the CPU). Padding frames hold zeros.
    """
    drawn = []
    for name, count in zip(names, batch.num_references, strict=True):
        shape = base.latent_shape(batch.size, count)
        noise = torch.randn(shape, generator=generator(*name), dtype=torch.float32)
        padding = batch.num_slots - count if batch.num_slots else 0
        drawn.append(functional.pad(noise, (0, 0, 0, 0, padding, 0)))
    return torch.stack(drawn).to(base.device)

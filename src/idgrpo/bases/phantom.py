"""Phantom: clean reference latents behind the video on the time axis, and guidance with three branches."""

import torch
from torch import Tensor

from idgrpo.bases.contract import Condition, ConditionBatch
from idgrpo.bases.guidance import phantom_weights
from idgrpo.bases.references import fit_phantom
from idgrpo.bases.wan import WanBase


class PhantomBase(WanBase):
    """Phantom on `WanTransformer3DModel`.

    The published sampler keeps reference frames inside the noise and overwrites them before each forward; here they
    stay out of the state and are appended inside `velocity`, which gives the same trajectory and keeps them out of log
    p.
    """

    fit = staticmethod(fit_phantom)
    weights = staticmethod(phantom_weights)
    slots_in_state = False

    def _visual(self, condition: Condition) -> Tensor:
        """Give the reference latents [z, reference, height, width]."""
        return condition.references

    def _branch(self, name: str, hidden: Tensor, visual: Tensor, batch: ConditionBatch) -> dict[str, Tensor]:
        """Give references (or zeros in normalised latent space for `neg`) and prompt (only for `it`)."""
        references = torch.zeros_like(visual) if name == "neg" else visual
        return {
            "hidden_states": torch.cat([hidden, references], dim=2),
            "encoder_hidden_states": batch.text if name == "it" else batch.negative,
        }

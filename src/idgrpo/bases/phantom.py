"""Phantom: clean reference latents behind the video on the time axis, and guidance with three branches."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idgrpo.bases.conditions import as_uint8
from idgrpo.bases.contract import Condition, ConditionBatch
from idgrpo.bases.guidance import phantom_weights
from idgrpo.bases.wan import WanBase


def fit_phantom(image: Tensor, height: int, width: int) -> Tensor:
    """Fit a photo into the frame as Phantom does: Lanczos on 8 bits, aspect kept, centred on white (255).

    uint8 [3, h, w] -> float32 [3, height, width] in -1..1.
    """
    photo = Image.fromarray(as_uint8(image).permute(1, 2, 0).contiguous().numpy())
    ratio = photo.width / photo.height
    if ratio > width / height:
        new_width, new_height = width, max(1, int(width / ratio))
    else:
        new_width, new_height = max(1, int(height * ratio)), height
    fitted = photo.resize((new_width, new_height), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (width, height), (255, 255, 255))
    canvas.paste(fitted, ((width - new_width) // 2, (height - new_height) // 2))
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 127.5 - 1.0


class PhantomBase(WanBase):
    """Phantom on `WanTransformer3DModel`.

    The published sampler keeps reference frames inside the noise and overwrites them before each forward; here they
    stay out of the state and are appended inside `velocity`, which gives the same trajectory and keeps them out of log
    p.
    """

    fit = staticmethod(fit_phantom)
    weights = staticmethod(phantom_weights)
    slots_in_state = False

    def _visual(self, condition: Condition, reversed_references: bool) -> Tensor:
        """Give the reference latents [z, reference, height, width]."""
        return condition.references

    def _branch(self, name: str, hidden: Tensor, visual: Tensor, batch: ConditionBatch) -> dict[str, Tensor]:
        """Give references (or zeros in normalised latent space for `neg`) and prompt (only for `it`)."""
        references = torch.zeros_like(visual) if name == "neg" else visual
        return {
            "hidden_states": torch.cat([hidden, references], dim=2),
            "encoder_hidden_states": batch.text if name == "it" else batch.negative,
        }

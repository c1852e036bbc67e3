"""VACE: references as slots in front of the video, and a control branch that tells the transformer what they hold."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from idgrpo.bases.conditions import as_uint8
from idgrpo.bases.contract import Condition, ConditionBatch, VideoSize
from idgrpo.bases.guidance import vace_weights
from idgrpo.bases.wan import WanBase


def fit_vace(image: Tensor, height: int, width: int) -> Tensor:
    """Fit a photo into the frame as VACE does: bilinear, aspect kept, centred on white.

    uint8 [3, h, w] -> float32 [3, height, width] in -1..1.
    """
    pixels = as_uint8(image).float() / 255.0 * 2.0 - 1.0
    scale = min(height / pixels.shape[1], width / pixels.shape[2])
    new_height, new_width = max(1, int(pixels.shape[1] * scale)), max(1, int(pixels.shape[2] * scale))
    fitted = functional.interpolate(
        pixels.unsqueeze(0), size=(new_height, new_width), mode="bilinear", align_corners=False
    )
    canvas = torch.ones(3, height, width)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    canvas[:, top : top + new_height, left : left + new_width] = fitted[0]
    return canvas


class VaceBase(WanBase):
    """VACE on `WanVACETransformer3DModel`.

    Control channels = 2 z (inactive and reactive latents) + spatial factor^2 (mask by pixel-unshuffle): 96 for the
    public models. Without a source video the pixels are constant grey (0 in -1..1) and the mask is one, so inactive
    and reactive are the same encoding. References keep the order of the case; `reversed_references` puts them as diffusers'
    pipeline does.
    """

    fit = staticmethod(fit_vace)
    weights = staticmethod(vace_weights)
    slots_in_state = True

    def __init__(self, *args: Any, **keywords: Any):
        super().__init__(*args, **keywords)
        self._grey: dict[VideoSize, Tensor] = {}

    @torch.no_grad()
    def _background(self, size: VideoSize) -> Tensor:
        """Encode constant grey once per size: [z, frame, height, width]."""
        if size not in self._grey:
            frames = self.geometry.encodable_frames(size.frames)
            pixels = torch.zeros(1, 3, frames, size.height, size.width)
            # The VAE is causal in time: surplus frames at the end do not change what is kept.
            self._grey[size] = self._encode_pixels(pixels)[0, :, : self.geometry.latent_frames(size.frames)].clone()
        return self._grey[size]

    def _visual(self, condition: Condition, reversed_references: bool) -> Tensor:
        """Build the control latents [2 z + mask, reference + frame, height, width]."""
        references = condition.references.flip(1) if reversed_references else condition.references
        grey = condition.background
        assert grey is not None  # `encode` of a VACE base makes it
        slots = torch.cat([references, torch.zeros_like(references)])
        latents = torch.cat([slots, torch.cat([grey, grey])], dim=1)
        mask = latents.new_ones(self.geometry.mask_channels, *latents.shape[1:])
        mask[:, : condition.num_references] = 0.0
        return torch.cat([latents, mask])

    def _branch(self, name: str, hidden: Tensor, visual: Tensor, batch: ConditionBatch) -> dict[str, Tensor]:
        """Give prompt or negative prompt with the same control latents."""
        return {
            "hidden_states": hidden,
            "encoder_hidden_states": batch.text if name == "cond" else batch.negative,
            "control_hidden_states": visual,
        }

"""Reads cases, a base and a reward; writes a policy: a LoRA adapter in diffusers layout and policy.json.

One trainer: groups by case, rollout, reward, advantages, replay with the clipped loss and KL."""

from idgrpo.plugins import Registry

_LOSSES = {
    "clip": "idgrpo.policy.loss:clip_loss",
    "ratio-norm": "idgrpo.policy.loss:ratio_norm_loss",
    "kl-mask": "idgrpo.policy.loss:kl_mask_loss",
    "nft": "idgrpo.policy.loss:nft_loss",
}
LOSSES = Registry("idgrpo.policy_losses", _LOSSES)
"""name -> function(LossInputs) -> LossTerms"""
FORWARD_LOSSES = ("nft",)  # of whole clips noised again: they need loss.credit=forward

_CONTROLS = {
    "sharpness": "idgrpo.evaluate.texture:mean_sharpness",
    "ripple": "idgrpo.evaluate.texture:residual_ripple",
    "saturation": "idgrpo.evaluate.texture:mean_saturation",
}
CONTROLS = Registry("idgrpo.controls", _CONTROLS)
"""name -> function(clip uint8 [frame, 3, height, width]) -> number"""

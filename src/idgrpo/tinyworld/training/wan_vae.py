"""Whole-clip forward passes of diffusers' `AutoencoderKLWan`, for training.

The library encodes and decodes chunk by chunk with caches, which is exact but slow to train through. On a whole clip the
caches are plain causal padding, except around the first frame in the time resampling; `whole_clip` restates just that.
A test checks that both ways agree.
"""

import types

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders import autoencoder_kl_wan as wan
from torch import Tensor


def new_vae() -> AutoencoderKLWan:
    """Make the tiny autoencoder: 4x smaller in space, 2x in time, 16 channels, 1.4 M parameters."""
    vae = AutoencoderKLWan(
        base_dim=32, dim_mult=[1, 2], z_dim=16, num_res_blocks=1, attn_scales=[], temperal_downsample=[True], patch_size=2,
        in_channels=12, out_channels=12, latents_mean=[0.0] * 16, latents_std=[1.0] * 16,
        scale_factor_spatial=4, scale_factor_temporal=2,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if parameter.dim() == 5 and parameter.shape[2:] == (3, 3, 3):
                # Start as an image model: the past counts nothing until clips teach it.
                parameter[:, :, :2] = 0
                parameter[:, :, 2] *= 3**0.5
            if "time_conv.weight" in name:
                _start_time_conv(parameter)
            if "time_conv.bias" in name:
                parameter.zero_()
    return vae


def _start_time_conv(weight: Tensor) -> None:
    """Halve time by the mean of two frames, double it by repetition."""
    width = weight.shape[1]
    weight.zero_()
    if weight.shape[0] == width:
        weight[:, :, 1:, 0, 0] = 0.5 * torch.eye(width).unsqueeze(-1)
    else:
        weight[:, :, 2, 0, 0] = torch.eye(width).repeat(2, 1)


def whole_clip(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Replace the resampling and norm of this instance by whole-clip ones (in place; reload to undo)."""
    for module in vae.modules():
        if isinstance(module, wan.WanRMS_norm):
            module.forward = types.MethodType(_norm, module)
        if isinstance(module, wan.WanResample):
            module.forward = types.MethodType(_resample, module)
    return vae


def encode(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """Return posterior means [batch, channel, latent frame, h, w] of pixels [batch, channel, frame, height, width]."""
    return vae.quant_conv(vae.encoder(wan.patchify(pixels, vae.config.patch_size))).chunk(2, 1)[0]


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Invert `encode`; not clamped."""
    return wan.unpatchify(vae.decoder(vae.post_quant_conv(latents)), vae.config.patch_size)


def _norm(self: wan.WanRMS_norm, x: Tensor) -> Tensor:
    return x * (x.square().sum(1, keepdim=True) + 1e-12).rsqrt() * (self.scale * self.gamma)


def _resample(self: wan.WanResample, x: Tensor, feat_cache=None, feat_idx=None) -> Tensor:
    batch, channel, frames, height, width = x.shape
    if self.mode == "upsample3d" and frames > 1:
        doubled = self.time_conv(x[:, :, 1:]).reshape(batch, 2, channel, frames - 1, height, width)
        doubled = doubled.permute(0, 2, 3, 1, 4, 5).reshape(batch, channel, 2 * (frames - 1), height, width)
        x = torch.cat([x[:, :, :1], doubled], 2)
    flat = self.resample(x.transpose(1, 2).flatten(0, 1))
    x = flat.view(batch, x.shape[2], *flat.shape[1:]).transpose(1, 2)
    if self.mode == "downsample3d" and frames > 1:
        halved = F.conv3d(x, self.time_conv.weight, self.time_conv.bias, stride=(2, 1, 1))
        x = torch.cat([x[:, :, :1], halved], 2)
    return x

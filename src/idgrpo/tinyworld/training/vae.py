"""Train the tiny autoencoder: single images first, then clips.

Starting with clips fails; 24 images a step for a few minutes give sharp frames, and clips then only have to learn time.
"""

import logging
import time
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.tinyworld.training.optimizer import TinyOptimizer
from idgrpo.tinyworld.training.pool import Pool, from_bytes, make_pool
from idgrpo.tinyworld.training.wan_vae import decode, encode, new_vae, whole_clip

log = logging.getLogger(__name__)
NOISE = 0.1  # std added to the latents, so that nearby latents decode alike
LATENT_PENALTY = 1e-3
LOGVAR = -4.6  # written into the posterior: log of NOISE squared


def train(
    out: Path,
    *,
    image_steps: int = 900,
    clip_steps: int = 2400,
    clip_batch: int = 8,
    seed: int = 0,
    cache: Path | None = None,
) -> None:
    """Train, normalise the latents by their mean and deviation, and save in diffusers format."""
    torch.manual_seed(seed)
    pool = make_pool(6144, seed=7, cache=cache)
    vae = whole_clip(new_vae())
    for stage, steps in (("images", image_steps), ("clips", clip_steps)):
        optimizer = TinyOptimizer(
            vae, lambda name: "conv_in" not in name and "conv_out" not in name, muon_lr=0.02, adam_lr=3e-3
        )
        started, error = time.monotonic(), None
        for step in range(steps):
            pixels = _images(pool) if stage == "images" else _clips(pool, clip_batch)
            latents = encode(vae, pixels)
            difference = decode(vae, latents + NOISE * torch.randn_like(latents)) - pixels
            squared = difference.square().mean()
            (difference.abs().mean() + 2 * squared + LATENT_PENALTY * latents.square().mean()).backward()
            progress = step / steps
            optimizer.step(progress if stage == "clips" else min(progress, 0.6))
            error = float(squared) if error is None else 0.97 * error + 0.03 * float(squared)
            if step % 100 == 99:
                psnr = 10 * torch.log10(torch.tensor(4 / error))
                log.info(
                    "%s %d/%d: %.2f dB, latent std %.2f, %.0f s",
                    stage,
                    step + 1,
                    steps,
                    psnr,
                    latents.std(),
                    time.monotonic() - started,
                )
                _save(vae, pool, out)
        _save(vae, pool, out)


def _images(pool: Pool) -> Tensor:
    frames = pool.clips[torch.randint(len(pool.clips), (24,)), torch.randint(pool.clips.shape[1], (24,))]
    faces = pool.portraits.flatten(0, 1)
    return from_bytes(torch.cat([frames, faces[torch.randint(len(faces), (8,))]])).unsqueeze(2)


def _clips(pool: Pool, batch: int) -> Tensor:
    clips = from_bytes(pool.clips[torch.randint(len(pool.clips), (batch,))])
    # References are one-frame videos: keep them in the diet.
    if torch.rand(()) < 0.1:
        return _images(pool)
    return clips.transpose(1, 2)


@torch.no_grad()
def _save(vae, pool: Pool, out: Path) -> None:
    latents = encode(vae, from_bytes(pool.clips[:256]).transpose(1, 2))
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    half = vae.config.z_dim
    vae.quant_conv.weight[half:] = 0
    vae.quant_conv.bias[half:] = LOGVAR
    vae.save_pretrained(out)

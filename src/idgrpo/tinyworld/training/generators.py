"""Train the tiny bases by rectified flow.

Each learns from the same pool of latents: clips of training people with their portraits, half of the clips damaged.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5EncoderModel

from idgrpo.tinyworld.people import draw_people
from idgrpo.tinyworld.render import portraits, render
from idgrpo.tinyworld.scene import draw_scenes, prompts
from idgrpo.tinyworld.training.damage import damage
from idgrpo.tinyworld.training.optimizer import TinyOptimizer
from idgrpo.tinyworld.training.pool import from_bytes, to_bytes
from idgrpo.tinyworld.training.text import TEXT_WIDTH, encode_text
from idgrpo.tinyworld.training.wan_vae import encode, whole_clip

log = logging.getLogger(__name__)
BATCH = 16
SHIFT = 3.0
EMA = 0.995
ARCHITECTURE = {
    "patch_size": (1, 2, 2), "num_attention_heads": 4, "attention_head_dim": 32, "in_channels": 16, "out_channels": 16,
    "text_dim": TEXT_WIDTH, "freq_dim": 64, "ffn_dim": 384, "num_layers": 5, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Latents:
    """Normalised latents of clips [num, c, f, h, w] and portraits [num, slot, c, 1, h, w], with prompts."""

    clips: Tensor
    references: Tensor
    grey: Tensor  # [c, f, h, w], the encoding of a constant grey clip
    prompts: list[str]


@torch.no_grad()
def make_latents(vae_path: Path, num: int, seed: int, cache: Path | None = None) -> Latents:
    """Render and encode the pool that both bases learn from."""
    if cache is not None and cache.exists():
        return Latents(**torch.load(cache, weights_only=True))
    vae = whole_clip(AutoencoderKLWan.from_pretrained(vae_path).eval())
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    generator = torch.Generator().manual_seed(seed)
    clips, references, texts = [], [], []
    for part in range(num // 64):
        scenes = draw_scenes(generator, 64)
        codes = draw_people(generator, (64, 2), held_out=False)
        pixels = from_bytes(to_bytes(render(scenes, damage(codes, generator, scenes.num_frames)).pixels)).transpose(
            1, 2
        )
        clips.append((encode(vae, pixels) - mean) / std)
        # Slots stand from left to right; references come in any order, and the prompt tells which is which.
        order = torch.rand(64, 2, generator=generator).argsort(1)
        asked = codes.gather(1, order.argsort(1))
        faces = from_bytes(to_bytes(portraits(asked, generator if part % 2 else None)))
        latents = (encode(vae, faces.flatten(0, 1).unsqueeze(2)) - mean) / std
        references.append(latents.view(64, 2, *latents.shape[1:]))
        texts += prompts(scenes, order)
    grey = (encode(vae, torch.zeros_like(pixels[:1])) - mean) / std
    pool = Latents(torch.cat(clips), torch.cat(references), grey[0], texts)
    if cache is not None:
        torch.save(vars(pool), cache)
    return pool


class PhantomFlow(nn.Module):
    """Phantom's wiring: references follow the video on the time axis as clean latents."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = WanTransformer3DModel(**ARCHITECTURE)

    def loss(self, pool: Latents, rows: Tensor, text: Tensor, sigma: Tensor) -> Tensor:
        clean, references = pool.clips[rows], pool.references[rows].squeeze(3).transpose(1, 2)
        noise = torch.randn_like(clean)
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
        tokens = torch.cat([noisy, references], 2)
        velocity = self.transformer(tokens, sigma * 1000, text, return_dict=False)[0][:, :, : clean.shape[2]]
        return (velocity - (noise - clean)).square().mean()


class VaceFlow(nn.Module):
    """VACE's wiring: references stand in front of the video, in the state and in the control latents."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = WanVACETransformer3DModel(**ARCHITECTURE, vace_layers=[0, 2, 4], vace_in_channels=48)

    def loss(self, pool: Latents, rows: Tensor, text: Tensor, sigma: Tensor) -> Tensor:
        video, references = pool.clips[rows], pool.references[rows].squeeze(3).transpose(1, 2)
        clean = torch.cat([references, video], 2)
        noise = torch.randn_like(clean)
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
        control = vace_control(references, pool.grey)
        velocity = self.transformer(noisy, sigma * 1000, text, control_hidden_states=control, return_dict=False)[0]
        return (velocity - (noise - clean)).square().mean()


def vace_control(references: Tensor, grey: Tensor) -> Tensor:
    """Build control latents [batch, 2 z + mask, references + frames, h, w]: nothing is given, everything is to be made."""
    batch, _, count, height, width = references.shape
    video = torch.cat([grey, grey, torch.ones(16, *grey.shape[1:])]).expand(batch, -1, -1, -1, -1)
    shown = torch.cat([references, torch.zeros(batch, 32, count, height, width)], 1)
    return torch.cat([shown, video], 2)


def train(family: str, pool: Latents, text: Tensor, out: Path, *, steps: int, seed: int = 0) -> None:
    """Train one base and save its exponential average in diffusers format (float16)."""
    torch.manual_seed(seed)
    model = PhantomFlow() if family == "phantom" else VaceFlow()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA))
    optimizer = TinyOptimizer(model, lambda name: "blocks." in name, muon_lr=0.02, adam_lr=2e-3)
    started, mean = time.monotonic(), None
    order = torch.randperm(len(pool.clips))
    for step in range(steps):
        if (step * BATCH) % len(order) + BATCH > len(order):
            order = torch.randperm(len(order))
        first = (step * BATCH) % (len(order) - BATCH + 1)
        rows = order[first : first + BATCH]
        uniform = (torch.arange(BATCH) + torch.rand(BATCH)) / BATCH
        sigma = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
        loss = model.loss(pool, rows, text[rows], sigma)
        loss.backward()
        optimizer.step(step / steps)
        average.update_parameters(model)
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 99:
            log.info("%s %d/%d: loss %.4f, %.0f s", family, step + 1, steps, mean, time.monotonic() - started)
        if step % 500 == 499 or step == steps - 1:
            trained: Any = average.module.transformer
            trained.save_pretrained(out)


class PromptEncoder:
    """Encode prompts with the shared text encoder, each distinct one once."""

    def __init__(self, folder: Path):
        self.encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self.known: dict[str, Tensor] = {}

    def __call__(self, prompts: list[str]) -> Tensor:
        """Return embeddings [prompt, TEXT_LENGTH, width]."""
        new = sorted(set(prompts) - set(self.known))
        if new:
            self.known.update(zip(new, encode_text(self.encoder, self.tokenizer, new), strict=True))
        return torch.stack([self.known[prompt] for prompt in prompts])

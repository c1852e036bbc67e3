"""Lessons with a generator's look: true clips, noised part of the way and finished by a base."""

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor

from idgrpo.flow.schedule import wan_sigmas
from idgrpo.tinyworld.training.generators import PromptEncoder
from idgrpo.tinyworld.training.pool import from_bytes, to_bytes
from idgrpo.tinyworld.training.vlm_truth import FRAMES, Lesson, draw_full_lesson, draw_lesson
from idgrpo.tinyworld.training.wan_vae import decode, encode, whole_clip

NUM_STEPS, SHIFT = 8, 3.0
START_STEPS = (7,)  # of 8: sigma 0.30; from 0.5 on the base decides who is drawn, and the truth is lost


class GeneratorLook:
    """Draw lessons of which a quarter has passed through tiny-phantom, asked for the people that are really shown."""

    def __init__(self, checkpoints: Path):
        wan = checkpoints / "tiny-wan"
        self.text = PromptEncoder(wan)
        self.vae = whole_clip(AutoencoderKLWan.from_pretrained(wan / "vae", torch_dtype=torch.float32).eval())
        self.base = WanTransformer3DModel.from_pretrained(
            checkpoints / "tiny-phantom" / "transformer", torch_dtype=torch.float32
        ).eval()
        mean, std = self.vae.config.latents_mean, self.vae.config.latents_std
        self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (mean, std))

    @torch.no_grad()
    def __call__(self, generator: torch.Generator, batch: int, num_people: int) -> Lesson:
        if num_people != 2 or torch.rand((), generator=generator) < 0.5:
            return draw_lesson(generator, batch, num_people)
        lesson, clips, photos, prompts = draw_full_lesson(generator, batch, num_people)
        half = batch // 2
        latents = self._latents(to_bytes(clips[:half]).transpose(1, 2))
        references = self._latents(to_bytes(photos[:half]).flatten(0, 1).unsqueeze(2))
        references = references.view(half, num_people, *latents.shape[1:2], *latents.shape[3:]).transpose(1, 2)
        finished = self._finish(latents, references, self.text(prompts[:half]), generator)
        pixels = (decode(self.vae, finished * self.std + self.mean).transpose(1, 2) / 2 + 0.5).clamp(0, 1)
        videos = lesson.videos.clone()
        videos[:half] = to_bytes(pixels[:, list(FRAMES)])
        return replace(lesson, videos=videos)

    def _latents(self, pixels: Tensor) -> Tensor:
        return (encode(self.vae, from_bytes(pixels)) - self.mean) / self.std

    def _finish(self, latents: Tensor, references: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
        sigmas = wan_sigmas(NUM_STEPS, SHIFT).float()
        start = START_STEPS[int(torch.randint(len(START_STEPS), (), generator=generator))]
        state = torch.lerp(latents, torch.randn(latents.shape, generator=generator), float(sigmas[start]))
        frames = latents.shape[2]
        for sigma, following in zip(sigmas[start:-1], sigmas[start + 1 :], strict=True):
            time = torch.full((len(state),), float(sigma) * 1000)
            velocity = self.base(torch.cat([state, references], 2), time, text, return_dict=False)[0][:, :, :frames]
            state = state + (following - sigma) * velocity
        return state

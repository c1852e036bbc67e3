"""What VACE and Phantom share: text, VAE, geometry, and velocity by buckets of equal numbers of references."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idgrpo.bases.conditions import check_references
from idgrpo.bases.contract import BaseEntry, Condition, ConditionBatch, Guidance, VideoSize
from idgrpo.bases.cost import free_device_bytes, must_tile
from idgrpo.bases.finite import require_finite_rows
from idgrpo.bases.geometry import Geometry
from idgrpo.bases.guidance import guided_velocity
from idgrpo.bases.text import TextEncoder, checked_prompt, clean_prompt
from idgrpo.bases.weights import weights_digest
from idgrpo.errors import UsageError
from idgrpo.flow.schedule import NUM_TRAIN_TIMESTEPS


def _without_padding(text: Tensor) -> Tensor:
    """Drop the zero rows after the end of a prompt, with the memory they take: a prompt fills a tenth of them or so."""
    filled = text.any(dim=1).nonzero()
    return text[: int(filled[-1]) + 1 if len(filled) else 0].clone()


class WanBase:
    """A generator of the Wan 2.1 family. Subclasses say how references enter the transformer."""

    fit: Callable[[Tensor, int, int], Tensor]
    """Fits a photo into the frame; float32 [3, height, width] in -1..1."""
    weights: Callable[[Guidance], dict[str, float]]
    """Guidance branches and their weights; the fully conditional one last."""
    slots_in_state: bool
    """Whether the state holds reference slots in front of the video."""

    def __init__(
        self,
        entry: BaseEntry,
        transformer: Any,
        vae: Any,
        text_encoder: TextEncoder,
        *,
        device: torch.device,
        dtype: torch.dtype,
        tile_if_needed: bool = False,
        reversed_references: bool = False,
        transformer_config: Any = None,
        read_transformer: Callable[[], Any] | None = None,
        encoder_folders: Sequence[Path] = (),
        numerics: Mapping[str, str] | None = None,
    ):
        self.name, self.entry = entry.name, entry
        self.transformer, self.vae, self.text_encoder = transformer, vae, text_encoder
        self.device, self.dtype = device, dtype
        self.reversed_references = reversed_references
        self.tile_if_needed, self.has_tiled = tile_if_needed, bool(getattr(vae, "use_tiling", False))
        self.transformer_config = transformer.config if transformer_config is None else transformer_config
        self._read_transformer, self._encoder_folders = read_transformer, list(encoder_folders)
        self.when_loaded: Callable[[WanBase], Any] = lambda base: None
        """Called once when the transformer has been read, to put a policy on it."""
        self.numerics = dict(numerics or {})
        """How the transformer computes where that was set: `base_weights`, `attention`."""
        self._is_vae_away = False
        self.geometry = Geometry.of(vae.config, self.transformer_config)
        shape = (1, self.geometry.z, 1, 1, 1)
        self._latents_mean = torch.tensor(vae.config.latents_mean, dtype=torch.float32).view(shape)
        self._latents_std = torch.tensor(vae.config.latents_std, dtype=torch.float32).view(shape)
        self._texts: dict[str, Tensor] = {}

    def load_transformer(self) -> None:
        """Read the transformer if that has not happened; see `contract.Base.load_transformer`."""
        if self.transformer is None:
            assert self._read_transformer is not None  # a base without a transformer was given the way to read it
            self.transformer = self._read_transformer()
            self.when_loaded(self)

    def release_encoders(self) -> None:
        """Give back the memory of text encoder and VAE; see `contract.Base.release_encoders`."""
        self.text_encoder.release()
        if self.device.type != "cpu":
            self.vae.to("cpu")
            self._is_vae_away = True
            torch.cuda.empty_cache()

    def _vae_weight(self) -> Tensor:
        """Give a weight of the VAE, which says where and in which dtype it works; fetch it back to the device."""
        if self._is_vae_away:
            self.vae.to(self.device)
            self._is_vae_away = False
        return next(self.vae.parameters())

    # --- conditions ---

    @cached_property
    def encoders_digest(self) -> str:
        """Give a digest of the encoders; see `contract.Base.encoders_digest`."""
        dtypes = (str(self._vae_weight().dtype), str(getattr(self.text_encoder, "dtype", None)))
        weights = weights_digest(self._encoder_folders) if self._encoder_folders else self.entry.source
        return hashlib.sha256(repr((weights, dtypes)).encode()).hexdigest()

    @torch.no_grad()
    def encode(self, prompt: str, references: Sequence[Tensor], size: VideoSize) -> Condition:
        """Encode one case; see `contract.Base.encode`."""
        self.geometry.check(size)
        check_references(references, min_px=self.entry.min_reference_px, max_references=self.entry.max_references)
        text, negative = (self._texts.get(words) for words in (prompt, self.entry.negative_prompt))
        text = self._encode_text(checked_prompt(prompt)) if text is None else text
        if negative is None:
            negative = self._texts[self.entry.negative_prompt] = self._encode_text(self.entry.negative_prompt)
        fitted = [type(self).fit(image, size.height, size.width) for image in references]
        latents = [self._encode_pixels(image[None, :, None]) for image in fitted]
        require_finite_rows(torch.stack(latents), "its encodings", [f"reference {n + 1}" for n in range(len(latents))])
        return Condition(
            text=text,
            negative=negative,
            references=torch.cat(latents, dim=2)[0],
            background=self._background(size),
            size=size,
        )

    @torch.no_grad()
    def encode_prompts(self, prompts: Iterable[str]) -> None:
        """Encode prompts ahead for `encode`, and give the text encoder's memory back: it need not be there with the transformer."""
        for prompt in {*filter(clean_prompt, prompts), self.entry.negative_prompt} - set(self._texts):
            self._texts[prompt] = self._encode_text(prompt)
        self.text_encoder.release()

    def _encode_text(self, prompt: str) -> Tensor:
        """Encode a prompt to [token, channel], without padding."""
        text = self.text_encoder.encode([prompt])[0]
        require_finite_rows(text[None], "the embeddings of its prompt", ["text"])
        return _without_padding(text)

    def collate(self, conditions: Sequence[Condition], *, reversed_references: bool = False) -> ConditionBatch:
        """Stack conditions; see `contract.Base.collate`."""
        sizes = {condition.size for condition in conditions}
        if len(sizes) != 1:
            raise UsageError(f"one batch needs one size, got {', '.join(map(str, sorted(sizes)))}")
        is_reversed = reversed_references or self.reversed_references
        counts = [condition.num_references for condition in conditions]
        return ConditionBatch(
            text=self._padded([condition.text for condition in conditions]).to(self.device, self.dtype),
            negative=self._padded([condition.negative for condition in conditions]).to(self.device, self.dtype),
            visual=[self._visual(condition, is_reversed).to(self.device, self.dtype) for condition in conditions],
            num_references=counts,
            num_slots=max(counts) if self.slots_in_state else 0,
            size=conditions[0].size,
            keys=[condition.key for condition in conditions],
        )

    def _padded(self, texts: Sequence[Tensor]) -> Tensor:
        """Pad embeddings with zero rows to [text, text_length, channel], as the encoder gave them."""
        length = self.entry.text_length
        return torch.stack([nn.functional.pad(text, (0, 0, 0, length - len(text))) for text in texts])

    def _background(self, size: VideoSize) -> Tensor | None:
        """Give what a condition needs besides its references; nothing by default."""
        return None

    def _visual(self, condition: Condition, reversed_references: bool) -> Tensor:
        """Give the tensor that carries the references into the transformer."""
        raise AssertionError("a subclass says how")

    # --- state ---

    def latent_shape(self, size: VideoSize, num_references: int) -> tuple[int, int, int, int]:
        """Give the state's shape [channel, frame, height, width]; see `contract.Base.latent_shape`."""
        frames, height, width = self.geometry.latent_size(size)
        return self.geometry.z, frames + (num_references if self.slots_in_state else 0), height, width

    def video_mask(self, batch: ConditionBatch) -> Tensor:
        """Mark the video frames of the state with 1; see `contract.Base.video_mask`."""
        frames = self.geometry.latent_frames(batch.size.frames)
        mask = torch.ones(len(batch), 1, batch.num_slots + frames, 1, 1, device=self.device)
        mask[:, :, : batch.num_slots] = 0.0
        return mask

    # --- velocity ---

    def velocity(self, latents: Tensor, sigma: Tensor, batch: ConditionBatch, guidance: Guidance | None) -> Tensor:
        """Predict the velocity; see `contract.Base.velocity`.

        The transformer has no attention mask, so samples with different numbers of references go through it in buckets.
        """
        guidance = self.entry.guidance if guidance is None else guidance
        weights = type(self).weights(guidance)
        frames = self.geometry.latent_frames(batch.size.frames)
        expected = (len(batch), self.geometry.z, batch.num_slots + frames)
        if tuple(latents.shape[:3]) != expected or tuple(sigma.shape) != expected[:1]:
            raise ValueError(f"latents {tuple(latents.shape)}, sigma {tuple(sigma.shape)}; batch needs {expected}")
        buckets: dict[int, list[int]] = {}
        for index, count in enumerate(batch.num_references):
            buckets.setdefault(count, []).append(index)
        pieces, order = [], []
        for count, members in buckets.items():
            padding = batch.num_slots - count if self.slots_in_state else 0
            part = batch if len(members) == len(batch) else batch.select(members)
            state = latents if part is batch else latents[members]
            time = sigma if part is batch else sigma[members]
            piece = self._bucket_velocity(state[:, :, padding:], time, part, weights, guidance.mode)
            pieces.append(nn.functional.pad(piece, (0, 0, 0, 0, padding, 0)) if padding else piece)
            order += members
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat(pieces)[torch.tensor(order, device=latents.device).argsort()]

    def _bucket_velocity(
        self, latents: Tensor, sigma: Tensor, batch: ConditionBatch, weights: dict[str, float], mode: str
    ) -> Tensor:
        """Give the guided velocity of samples with equal numbers of references."""
        hidden = latents.to(self.dtype)
        timestep = sigma.to(torch.float32) * NUM_TRAIN_TIMESTEPS
        visual = torch.stack(batch.visual)

        def forward(names: Sequence[str]) -> list[Tensor]:
            inputs = [self._branch(name, hidden, visual, batch) for name in names]
            stacked = {key: torch.cat([branch[key] for branch in inputs]) for key in inputs[0]}
            output = self.transformer(timestep=timestep.repeat(len(names)), return_dict=False, **stacked)[0]
            return list(output.float()[:, :, : latents.shape[2]].chunk(len(names)))

        return guided_velocity(weights, mode, forward)

    def _branch(self, name: str, hidden: Tensor, visual: Tensor, batch: ConditionBatch) -> dict[str, Tensor]:
        """Give the transformer's inputs of one guidance branch."""
        raise AssertionError("a subclass says how")

    # --- pixels ---

    @torch.no_grad()
    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode [batch, 3, frame, height, width] in -1..1 to normalised float32 latents on the CPU (mode)."""
        parameter = self._vae_weight()
        latents = self.vae.encode(pixels.to(parameter.device, parameter.dtype)).latent_dist.mode().float().cpu()
        return (latents - self._latents_mean) * (1.0 / self._latents_std)

    def encode_clips(self, pixels: Tensor, batch: ConditionBatch) -> Tensor:
        """Encode clips to clean states; see `contract.Base.encode_clips`."""
        surplus = self.geometry.encodable_frames(batch.size.frames) - batch.size.frames
        padded = torch.cat([pixels, pixels[:, -1:].expand(-1, surplus, -1, -1, -1)], dim=1)
        latents = self._encode_pixels(padded.permute(0, 2, 1, 3, 4) * 2.0 - 1.0)
        latents = latents[:, :, : self.geometry.latent_frames(batch.size.frames)]
        slots = latents.new_zeros(len(batch), self.geometry.z, batch.num_slots, *latents.shape[-2:])
        for index, count in enumerate(batch.num_references if batch.num_slots else ()):
            # What the reference slots of a finished state hold: the references themselves.
            slots[index, :, batch.num_slots - count :] = batch.visual[index][: self.geometry.z, :count].float().cpu()
        return torch.cat([slots, latents], dim=2).to(self.device)

    @contextmanager
    def _tiles_where_needed(self, size: VideoSize) -> Iterator[Tensor]:
        """Let the VAE decode in tiles for as long as the block runs if the GPU has no room for a whole frame.

        Gives a weight of the VAE, which says where and in which dtype it works. `has_tiled` keeps that it happened.
        """
        parameter = self._vae_weight()
        free_bytes = free_device_bytes(parameter.device) if self.tile_if_needed else None
        if self.vae.use_tiling or not must_tile(free_bytes, self.geometry, size, parameter.element_size()):
            yield parameter
            return
        self.has_tiled = True
        self.vae.enable_tiling()
        try:
            yield parameter
        finally:
            self.vae.disable_tiling()

    @torch.no_grad()
    def decode(self, latents: Tensor, batch: ConditionBatch) -> Tensor:
        """Decode the video part; see `contract.Base.decode`."""
        video = latents[:, :, batch.num_slots :].float()
        require_finite_rows(video, "the latents to decode")
        video = video / (1.0 / self._latents_std.to(video.device)) + self._latents_mean.to(video.device)
        with self._tiles_where_needed(batch.size) as parameter:
            pixels = self.vae.decode(video.to(parameter.device, parameter.dtype), return_dict=False)[0]
        require_finite_rows(pixels, "decoded pixels")
        return (pixels.float() / 2.0 + 0.5).clamp(0.0, 1.0).permute(0, 2, 1, 3, 4)

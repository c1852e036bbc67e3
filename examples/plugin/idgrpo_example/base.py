"""A generator with an architecture of its own: one attention block over patches of 4x4 pixels, untrained.

It meets `idgrpo.bases.contract.Base`. Its transformer is a diffusers model (`ModelMixin`, `ConfigMixin`, `PeftAdapterMixin`),
so that adapters are attached, saved and read as for every other base.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor, nn
from torch.nn import functional

from idgrpo.bases.contract import BaseEntry, Condition, ConditionBatch, Guidance, VideoSize
from idgrpo.errors import UsageError

ENTRY = BaseEntry(
    name="patches", family="patches", loader="idgrpo_example.base:load", source="", companion=None, revision=None,
    architecture="tiny",  # small: encodings need no cache, everything fits into memory at once
    size=VideoSize(32, 32, 5), train_size=VideoSize(32, 32, 5), fps=8, shift=3.0, num_steps=8, guidance=Guidance(mode="none"),
    text_length=8, min_reference_px=8, max_references=4, negative_prompt="", lossless=True,
)  # fmt: skip
PATCH, CHANNELS, TEXT_DIM = 4, 4, 8


class FeedForward(nn.Module):
    """Two layers, named as diffusers names them."""

    def __init__(self, width: int):
        super().__init__()
        first = nn.Module()
        first.proj = nn.Linear(width, 2 * width)
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(2 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](functional.gelu(self.net[0].proj(x)))


class PatchTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predict the velocity of patches that look at the words and the people of their case."""

    @register_to_config
    def __init__(
        self, in_channels: int = CHANNELS, text_dim: int = TEXT_DIM, patch_size: tuple = (1, 1, 1), width: int = 16
    ):
        super().__init__()
        self.proj_in, self.context, self.time = (
            nn.Linear(in_channels, width),
            nn.Linear(text_dim, width),
            nn.Linear(1, width),
        )
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])
        self.ffn, self.proj_out = FeedForward(width), nn.Linear(width, in_channels)

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False
    ) -> tuple[Tensor]:
        shape = hidden_states.shape
        x = self.proj_in(hidden_states.flatten(2).transpose(1, 2))
        x = x + self.time(timestep[:, None].to(x.dtype) / 1000)[:, None]
        context = self.context(encoder_hidden_states)
        seen = functional.scaled_dot_product_attention(self.to_q(x), self.to_k(context), self.to_v(context))
        x = x + self.to_out[0](seen)
        x = x + self.ffn(x)
        return (self.proj_out(x).transpose(1, 2).reshape(shape),)


class NoTextEncoder:
    """Words are hashed: there is nothing to let go."""

    def release(self) -> None:
        pass


class PatchBase:
    """State: the picture at a quarter of its size, red, green, blue and grey, in -1..1."""

    reversed_references = False
    encoders_digest = "patches-1"

    def __init__(self, entry: BaseEntry, device: torch.device, dtype: torch.dtype):
        self.entry, self.name, self.device, self.dtype = entry, entry.name, device, dtype
        self.transformer: Any = None
        self.vae, self.text_encoder = nn.Identity(), NoTextEncoder()
        self.transformer_config = {"in_channels": CHANNELS, "text_dim": TEXT_DIM}
        self.when_loaded: Callable[[Any], Any] = lambda base: None

    def load_transformer(self) -> None:
        if self.transformer is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                made = PatchTransformer()
            self.transformer = made.eval().requires_grad_(False).to(self.device, self.dtype)
            self.when_loaded(self)

    def release_encoders(self) -> None:
        pass

    def encode(self, prompt: str, references: Sequence[Tensor], size: VideoSize) -> Condition:
        if size.width % PATCH or size.height % PATCH:
            raise UsageError(f"{size}: width and height must divide by {PATCH}")
        photos = [image.float() / 255 if image.dtype == torch.uint8 else image.float() for image in references]
        pooled = [functional.adaptive_avg_pool2d(photo, (2, 2)) for photo in photos]
        return Condition(_words(prompt), _words(""), torch.stack([_with_grey(p) for p in pooled], 1), None, size)

    def collate(self, conditions: Sequence[Condition], *, reversed_references: bool = False) -> ConditionBatch:
        text = torch.stack([_padded(c.text) for c in conditions]).to(self.device)
        negative = torch.stack([_padded(c.negative) for c in conditions]).to(self.device)
        visual = [c.references.to(self.device) for c in conditions]
        counts = [c.num_references for c in conditions]
        return ConditionBatch(text, negative, visual, counts, 0, conditions[0].size, [c.key for c in conditions])

    def latent_shape(self, size: VideoSize, num_references: int) -> tuple[int, int, int, int]:
        return CHANNELS, size.frames, size.height // PATCH, size.width // PATCH

    def video_mask(self, batch: ConditionBatch) -> Tensor:
        return torch.ones(len(batch), 1, batch.size.frames, 1, 1, device=self.device)

    def velocity(self, latents: Tensor, sigma: Tensor, batch: ConditionBatch, guidance: Guidance | None) -> Tensor:
        people = torch.stack([v.mean(1).flatten(1).T for v in batch.visual])  # four tokens, whoever many there are
        context = torch.cat([batch.text, functional.pad(people, (0, TEXT_DIM - CHANNELS))], 1).to(self.dtype)
        (found,) = self.transformer(latents.to(self.dtype), sigma * 1000, context)
        return found.float()

    def encode_clips(self, pixels: Tensor, batch: ConditionBatch) -> Tensor:
        small = functional.avg_pool2d(pixels.flatten(0, 1), PATCH)
        return _with_grey(small.transpose(0, 1)).unflatten(1, pixels.shape[:2]).transpose(0, 1).to(self.device)

    @torch.no_grad()
    def decode(self, latents: Tensor, batch: ConditionBatch) -> Tensor:
        frames = latents[:, :3].transpose(1, 2)
        large = frames.repeat_interleave(PATCH, -1).repeat_interleave(PATCH, -2)
        return ((large + 1) / 2).clamp(0, 1)


def load(entry: BaseEntry, *, device: torch.device, dtype: torch.dtype) -> PatchBase:
    """Make the base; its transformer is read by `load_transformer`."""
    return PatchBase(entry, device, dtype)


def _with_grey(colours: Tensor) -> Tensor:
    """Put [3, ..] in 0..1 into -1..1 and add their mean as a fourth channel."""
    return torch.cat([colours, colours.mean(0, keepdim=True)]) * 2 - 1


def _words(prompt: str) -> Tensor:
    """Hash each word of a prompt to a row [word, TEXT_DIM] in -1..1."""
    rows = [list(hashlib.sha256(word.encode()).digest()[:TEXT_DIM]) for word in prompt.split()[:8]]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, TEXT_DIM) / 127.5 - 1


def _padded(text: Tensor) -> Tensor:
    return functional.pad(text, (0, 0, 0, 8 - len(text)))

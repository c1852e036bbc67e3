"""What a base is: conditions in, velocity out, and a decoder. Everything above codes against this file only."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:  # this file describes; torch is loaded by those who compute
    import torch
    from torch import Tensor

    from idgrpo.bases.text import TextEncoder

Family = str
"""vace or phantom; bases of other packages have families of their own, whose guidance is VACE's unless they mix it themselves."""
GuidanceMode = Literal["none", "detach-uncond", "both-grad"]
BaseWeights = Literal["bf16", "float32", "int8", "fp8", "nf4"]
"""How the weights of a frozen transformer are kept in memory."""
QUANTISED = ("int8", "fp8", "nf4")
"""Those of `BaseWeights` that only a frozen transformer can have; adapters train on top of them in float32."""


class VideoSize(NamedTuple):
    """Size of a clip: width and height in pixels, frames in number."""

    width: int
    height: int
    frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"


@dataclass(frozen=True)
class Guidance:
    """How the branches of guidance are mixed.

    scale: VACE's w, or Phantom's text scale. image_scale: Phantom's image scale (None means equal to `scale`; VACE
    ignores it). mode: `none` = one conditional forward; `both-grad` = all branches in one batched forward, gradients
    through all; `detach-uncond` = gradients through the fully conditional branch only, the others in a forward of their
    own without graph. How forwards are split depends on the mode alone, never on whether gradients are on, so that
    rollout and replay compute the same numbers.
    """

    scale: float = 1.0
    image_scale: float | None = None
    mode: GuidanceMode = "both-grad"


@dataclass(frozen=True)
class BaseEntry:
    """One named base: where its weights are, and its published defaults."""

    name: str
    family: Family
    source: str
    """`hub:<owner>/<repository>[/<file>]`, `package:<folder inside idgrpo>` or a path."""
    companion: str | None
    """Where components that the source lacks (VAE, text encoder, tokenizer) come from; same notation."""
    revision: str | None
    architecture: str
    """Key of `architectures.ARCHITECTURES`; sets what the transformer must be where no config.json says it."""
    size: VideoSize
    train_size: VideoSize
    fps: int
    shift: float
    num_steps: int
    guidance: Guidance
    text_length: int
    min_reference_px: int
    max_references: int
    negative_prompt: str
    lossless: bool
    download: str = ""
    """The one command that gets the weights."""
    download_size: str = ""
    loader: str = ""
    """`package.module:function` of a base with an architecture of its own: (entry, device=, dtype=) -> Base. What it reads from
    `source`, and the file it stands in, decide the digest of its weights."""


@dataclass(frozen=True)
class Condition:
    """Encodings of one case: everything the transformer needs besides the state. On the CPU unless moved.

    text, negative: [token, channel] without the zero rows up to text_length, which `collate` adds. references: [channel,
    reference, height, width], normalised latents in the order of the case. background (VACE): [channel, frame, height, width], the encoding of a
    constant grey clip, one tensor shared by all conditions of a size.
    """

    text: "Tensor"
    negative: "Tensor"
    references: "Tensor"
    background: "Tensor | None"
    size: VideoSize
    key: str = ""

    @property
    def num_references(self) -> int:
        return self.references.shape[1]


@dataclass
class ConditionBatch:
    """Conditions of a batch on the base's device; samples may differ in their number of references.

    visual: one tensor per sample. VACE: control latents [channel, reference + frame, height, width]; Phantom: reference
    latents [channel, reference, height, width]. num_slots: reference slots in front of the video in the state (the
    largest number of references for VACE, 0 for Phantom).
    """

    text: "Tensor"
    negative: "Tensor"
    visual: "list[Tensor]"
    num_references: list[int]
    num_slots: int
    size: VideoSize
    keys: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.visual)

    def select(self, indices: Sequence[int]) -> "ConditionBatch":
        """Give the batch of these samples, in this order; an index may repeat. num_slots stays, so states match."""
        picked = list(indices)
        return ConditionBatch(
            self.text[picked],
            self.negative[picked],
            [self.visual[i] for i in picked],
            [self.num_references[i] for i in picked],
            self.num_slots,
            self.size,
            [self.keys[i] for i in picked] if self.keys else [],
        )


class Base(Protocol):
    """A generator. `velocity` is the same function in rollout and replay."""

    name: str
    entry: BaseEntry
    transformer: Any  # nn.Module; Any because diffusers adds config, add_adapter, ... without types
    vae: Any
    text_encoder: "TextEncoder"
    device: "torch.device"
    dtype: "torch.dtype"
    transformer_config: Any
    """Its configuration, which is known before the transformer is read."""
    when_loaded: Any
    """Called with the base once its transformer has been read, before anybody uses it; set by who needs that."""
    reversed_references: bool
    """Whether references stand in the order of diffusers' VACE pipeline, the last one first."""

    def encode(self, prompt: str, references: "Sequence[Tensor]", size: VideoSize) -> Condition:
        """Encode one case. references: uint8 [3, h, w] (or float in 0..1), order kept. Raises DataError, UsageError."""
        ...

    def collate(self, conditions: Sequence[Condition], *, reversed_references: bool = False) -> ConditionBatch:
        """Stack conditions of one size on the base's device; numbers of references may differ.

        reversed_references: put this batch in the other order even if the base does not.
        """
        ...

    @property
    def encoders_digest(self) -> str:
        """Give a digest of what encodings depend on besides the case: weights and dtypes of text encoder and VAE."""
        ...

    def load_transformer(self) -> None:
        """Read the transformer if that has not happened (`load_base(.., with_transformer=False)`)."""
        ...

    def release_encoders(self) -> None:
        """Let the text encoder go and the VAE leave the device; each comes back when it is needed."""
        ...

    def latent_shape(self, size: VideoSize, num_references: int) -> tuple[int, int, int, int]:
        """Give the shape [channel, frame, height, width] of one sample's state.

        VACE: reference slots in front, then the video. Phantom: the video only. In a batch of mixed numbers of
        references the state is padded **in front** to the longest, so the video is always the last frames.
        """
        ...

    def video_mask(self, batch: ConditionBatch) -> "Tensor":
        """Give float32 [batch, 1, frame, 1, 1]: 1 on video frames, 0 on reference slots and padding."""
        ...

    def velocity(
        self, latents: "Tensor", sigma: "Tensor", batch: ConditionBatch, guidance: Guidance | None
    ) -> "Tensor":
        """Predict noise - x0 for float32 latents [batch, channel, frame, height, width] at sigma [batch]; float32 out.

        guidance None is the entry's default. Padding frames get velocity 0.
        """
        ...

    def encode_clips(self, pixels: "Tensor", batch: ConditionBatch) -> "Tensor":
        """Encode clips float32 [batch, frame, 3, height, width] in 0..1 to clean states, what `decode` undoes.

        Reference slots, where the state has them, hold the references.
        """
        ...

    def decode(self, latents: "Tensor", batch: ConditionBatch) -> "Tensor":
        """Decode the video part to float32 [batch, frame, channel, height, width] in 0..1, without graph.

        Raises NotFiniteError (its `rows` say which samples) for latents or pixels that are not finite.
        """
        ...

"""How samples are made; what is left out takes the base's published default."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from idgrpo.bases.contract import QUANTISED, BaseEntry, BaseWeights, Guidance, GuidanceMode, VideoSize
from idgrpo.bases.entries import ENTRIES
from idgrpo.errors import UsageError
from idgrpo.flow import LAWS, SOLVERS
from idgrpo.run.config import Config

MAX_PIXELS = 2**31
"""Of a clip, over all its frames: 64 times that of the published size of 832x480x81."""
MAX_SEED = 2**63 - 1
MAX_CLIPS = 1_000_000
Scale = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class SamplerConfig(Config):
    """Settings of the sampler. None means: what the authors of the base publish (`entries.py`)."""

    num_steps: int | None = Field(
        default=None, ge=1, le=1000, description="denoising steps; None: the base's published number"
    )
    shift: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="shift of the noise schedule; None: the base's published one",
    )
    width: int | None = Field(default=None, ge=1, description="width in pixels; None: the base's published one")
    height: int | None = Field(default=None, ge=1, description="height in pixels; None: the base's published one")
    frames: int | None = Field(default=None, ge=1, description="frames of a clip; None: the base's published number")
    guidance: Scale | None = Field(default=None, description="guidance scale (Phantom: of the text)")
    image_guidance: Scale | None = Field(default=None, description="Phantom's image guidance scale")
    guidance_mode: GuidanceMode | None = Field(
        default=None,
        description="none samples without guidance, the others with it; None: with it where a scale is given, else the base's habit",
    )
    solver: str = Field(default="euler", description="deterministic solver")
    law: str | None = Field(default=None, description="stochastic law; replaces the solver")
    eta: float | None = Field(
        default=None, ge=0, le=100, allow_inf_nan=False, description="strength of the stochastic law"
    )
    reversed_references: bool = Field(
        default=False, description="VACE: the last reference first, as diffusers' pipeline puts them"
    )
    batch_size: int | None = Field(
        default=None, ge=1, le=1024, description="None: what fits the GPU's free memory; 4 on a CPU"
    )

    @model_validator(mode="after")
    def _known_names(self) -> "SamplerConfig":
        if self.solver not in SOLVERS:
            raise ValueError(f"solver '{self.solver}' is unknown; known: {', '.join(SOLVERS)}")
        if self.law is not None and self.law not in LAWS:
            raise ValueError(f"law '{self.law}' is unknown; known: {', '.join(LAWS)}")
        if self.eta is not None and self.law is None:
            raise ValueError("eta needs a stochastic law")
        return self

    @model_validator(mode="after")
    def _possible_size(self) -> "SamplerConfig":
        sides = [side or 1 for side in (self.width, self.height, self.frames)]
        if (pixels := math.prod(sides)) > MAX_PIXELS:
            raise ValueError(
                f"a clip of {' x '.join(f'{side:,}' for side in sides)} is {pixels:,} pixels, "
                f"at most {MAX_PIXELS:,} are possible"
            )
        return self

    def resolved(self, entry: BaseEntry) -> "ResolvedSampler":
        """Fill what was left out with the base's defaults; what the user said is never changed.

        Raises UsageError for what this base cannot do: a clip too large with what was filled in, an order it does not have.
        """
        refuse_reversal(entry, self.reversed_references)
        default = entry.guidance
        scale = default.scale if self.guidance is None else self.guidance
        asked = self.guidance is not None or self.image_guidance is not None
        mode = self.guidance_mode or ("both-grad" if asked and default.mode == "none" else default.mode)
        image = self.image_guidance
        if image is None and entry.family == "phantom":
            image = scale if default.image_scale is None else default.image_scale
        filled = self.model_dump() | {
            "num_steps": self.num_steps or entry.num_steps,
            "shift": self.shift or entry.shift,
            "width": self.width or entry.size.width,
            "height": self.height or entry.size.height,
            "frames": self.frames or entry.size.frames,
            "guidance": scale,
            "image_guidance": image,
            "guidance_mode": mode,
        }
        try:
            return ResolvedSampler.model_validate(filled)
        except ValidationError as error:
            raise UsageError("; ".join(detail["msg"] for detail in error.errors())) from None

    def size(self, entry: BaseEntry) -> VideoSize:
        """Give the size of the clips for a base."""
        full = self.resolved(entry)
        return VideoSize(full.width, full.height, full.frames)

    def guidance_for(self, entry: BaseEntry) -> Guidance:
        """Give the guidance for a base."""
        full = self.resolved(entry)
        return Guidance(scale=full.guidance, image_scale=full.image_guidance, mode=full.guidance_mode)


class ResolvedSampler(SamplerConfig):
    """A sampler with every default filled in."""

    num_steps: int
    shift: float
    width: int
    height: int
    frames: int
    guidance: float
    guidance_mode: GuidanceMode


def refuse_reversal(entry: BaseEntry, reversed_references: bool) -> None:
    """Refuse the other order of references for a base that no other program feeds that way."""
    if reversed_references and entry.family != "vace":
        raise UsageError(
            f"base '{entry.name}': reversed references are the habit of diffusers' VACE pipeline",
            fix="leave reversed_references out",
        )


def numerics_of(base_weights: BaseWeights | None, attention: str | None) -> dict[str, str]:
    """Give the settings of how a transformer computes that were set, by name: they decide the last digits of a clip."""
    return {name: value for name, value in (("base_weights", base_weights), ("attention", attention)) if value}


def refuse_numerics(entry: BaseEntry, base_weights: BaseWeights | None, attention: str | None) -> None:
    """Refuse to quantise the transformer of a base of another package, or to choose its attention: its loader reads it."""
    if base_weights in QUANTISED or attention is not None:
        raise UsageError(
            f"base '{entry.name}' is of another package, whose loader decides on quantised weights and attention",
            fix="leave base_weights and attention out",
        )


class SampleConfig(Config):
    """Configuration of `idgrpo sample`."""

    base: str | None = Field(
        default=None, description="name or path of the base; None: the base that the policy was trained on"
    )
    revision: str | None = Field(default=None, description="commit of the base's hub repository; None: what is here")
    num_per_case: int = Field(default=1, ge=1, le=MAX_CLIPS, description="clips of each case, with rising seeds")
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description="None: each case's own, else 0")
    lossless: bool | None = Field(default=None, description="None: yes for tiny bases, no for others")
    device: str | None = Field(default=None, description="None: the GPU if there is one")
    vae_tiling: bool | None = Field(
        default=None,
        description="decode in tiles: less memory, slight differences at seams; None: where a GPU has no room for a whole frame",
    )
    vae_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="bfloat16 halves the memory and time of encoding and decoding; slight differences",
    )
    encoder_device: str | None = Field(default=None, description="where the text encoder works; None: as `device`")
    base_weights: BaseWeights | None = Field(
        default=None,
        description="weights of the transformer: bf16, float32, or quantised to int8, fp8 or nf4; None: quantised as the policy was trained, "
        "else bf16 on a GPU and float32 on a CPU",
    )
    attention: str | None = Field(
        default=None,
        description="diffusers' attention backend, such as native, flash or sage; None: diffusers' own choice",
    )
    sampler: SamplerConfig = SamplerConfig()

    @property
    def named_base(self) -> str:
        """Give the base; UsageError when none is named."""
        if self.base is None:
            raise UsageError("no base given", fix=f"say --base, one of {', '.join(ENTRIES)}, or a path")
        if self.revision is None:
            return self.base
        if self.base not in ENTRIES:
            raise UsageError(f"revision {self.revision}: only a base called by name alone has one, not {self.base}")
        return f"{self.base}@{self.revision}"

    @property
    def base_name(self) -> str:
        """Give the name of the base without its folder or revision, for artifact names."""
        return Path((self.base or "base").partition("@")[0]).stem

    def resolved(self, entry: BaseEntry) -> dict[str, Any]:
        """Give what decides the result, with all defaults filled in: device and batch size do not."""
        return {
            "base": self.base,
            "revision": self.revision,
            "num_per_case": self.num_per_case,
            "seed": self.seed,
            "lossless": entry.lossless if self.lossless is None else self.lossless,
            "vae_tiling": self.vae_tiling,
            "vae_dtype": self.vae_dtype,
            "sampler": self.sampler.resolved(entry).model_dump(mode="json", exclude={"batch_size"}),
            **numerics_of(self.base_weights, self.attention),
        }

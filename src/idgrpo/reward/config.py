"""Settings of a reward model: what is trained, on what, how; every number is kept as the user wrote it."""

import difflib
from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from idgrpo.reward import LOSSES
from idgrpo.run.config import Config

REAL_VLM = "Qwen/Qwen2.5-VL-3B-Instruct"
TINY_SIDE_PX = 64
MAX_EPOCHS = 100_000
MAX_SEED = 2**32 - 1  # what numpy takes, which transformers seeds as well


class FiniteConfig(Config):
    """Settings in which inf and nan are refused when they are read."""

    model_config = ConfigDict(allow_inf_nan=False)


class InputConfig(FiniteConfig):
    """What the model is shown; None keeps the checkpoint's own setting. `fps` is for clips that do not tell their own."""

    num_frames: int | None = Field(default=None, ge=1, le=1024)
    min_pixels: int | None = Field(default=None, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)
    fps: float | None = Field(default=None, gt=0)
    template_name: str | None = None
    include_prompt: bool | None = None
    reference_order: Literal["canonical", "given", "average"] | None = None

    def overrides(self) -> dict[str, object]:
        """Return the fields that were set."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class RewardLossConfig(FiniteConfig):
    """Pair loss; `both_bad` is read as a tie (neither side is better) or skipped; `people` weighs votes on who is wrong."""

    name: str = "rao_kupper"
    theta: float = Field(default=5.0, gt=1)
    nu: float = Field(default=1.0, gt=0)
    margin: float = Field(default=1.0, gt=0)
    both_bad: Literal["tie", "skip"] = "tie"
    people: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="weight of pairs that ask about one person alone, from votes on who is wrong; 0: not used",
    )

    @field_validator("name")
    @classmethod
    def _registered(cls, name: str) -> str:
        if name not in LOSSES:
            near = difflib.get_close_matches(name, LOSSES, n=1)
            raise ValueError(
                f"{name!r} is not known (known: {', '.join(LOSSES)}"
                + (f"; did you mean {near[0]!r}?)" if near else ")")
            )
        return name

    def arguments(self) -> dict[str, float]:
        """Return the settings that the chosen loss takes as keyword arguments; what has no setting keeps its default."""
        from idgrpo.reward.losses import load_loss, settings_of

        wanted = settings_of(load_loss(self.name))
        return {name: getattr(self, name) for name in wanted if name in type(self).model_fields}


class LoraSettings(FiniteConfig):
    """Low-rank adapters on all linear layers of the language model (rank 0: none)."""

    rank: int = Field(default=64, ge=0)
    alpha: float = 128
    dropout: float = Field(default=0.05, ge=0, lt=1)


class RateConfig(FiniteConfig):
    """Learning rate of each part in full training; 0 freezes the part."""

    lora: float = Field(default=2e-6, ge=0)
    vision: float = Field(default=2e-6, ge=0)
    merger: float = Field(default=2e-6, ge=0)
    head: float = Field(default=2e-6, ge=0)
    token: float = Field(default=2e-6, ge=0)


class FullConfig(FiniteConfig):
    """Training of the whole model, as published; one update sees batch_pairs * accumulation * ranks pairs."""

    lora: LoraSettings = LoraSettings()
    rates: RateConfig = RateConfig()
    epochs: float = Field(default=3, gt=0, le=MAX_EPOCHS)
    batch_pairs: int = Field(default=1, ge=1)
    accumulation: int = Field(default=4, ge=1)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    schedule: Literal["constant_with_warmup", "cosine", "linear"] = "constant_with_warmup"
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    gradient_checkpointing: bool | None = None
    bf16: bool | None = None
    zero: Literal[0, 1, 2] | None = None


class HeadConfig(FiniteConfig):
    """Training of the head alone on features computed once per clip.

    Small steps keep the head small, which makes few and noisy labels enough (docs/findings.md, "Small steps for the
    head"). Smaller ones, and stronger decay, shrink the gaps and with them the stated confidence.
    """

    rate: float = Field(default=0.002, gt=0)
    epochs: float = Field(default=20, gt=0, le=MAX_EPOCHS)
    batch_pairs: int = Field(default=128, ge=1)
    accumulation: int = Field(default=1, ge=1)
    weight_decay: float = Field(default=1.0, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)


class DataConfig(FiniteConfig):
    """Which pairs are used: parts of the data set, mix of sources over the run, teacher filter.

    For a share `copies` of the decided training pairs the better clip also meets its own photos at rest, which must lose.
    """

    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    test_share: float = Field(default=0.1, ge=0, lt=0.5)
    mix: Literal["all", "cosine", "random", "human-only", "synthetic-only"] = "all"
    random_share: float = Field(default=0.5, ge=0, le=1)
    teacher: bool = False
    copies: float = Field(default=0.1, ge=0, le=1)


class RewardModelConfig(FiniteConfig):
    """Everything that decides a reward model, beside the preferences themselves."""

    vlm: str | None = None
    mode: Literal["auto", "head", "full"] = "auto"
    inputs: InputConfig = InputConfig()
    loss: RewardLossConfig = RewardLossConfig()
    data: DataConfig = DataConfig()
    head: HeadConfig = HeadConfig()
    full: FullConfig = FullConfig()
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    score_batch: int = Field(default=16, ge=1)
    save_every: int = Field(default=500, ge=1)
    log_every: int = Field(default=20, ge=1)

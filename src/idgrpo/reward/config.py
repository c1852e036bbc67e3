"""Settings of a reward model: what is trained, on what, how; every number is kept as the user wrote it."""

import difflib
from typing import Literal

from pydantic import Field, field_validator

from idgrpo.reward import LOSSES
from idgrpo.run.config import Config

REAL_VLM = "Qwen/Qwen2.5-VL-3B-Instruct"
TINY_SIDE_PX = 64
MAX_EPOCHS = 100_000
MAX_SEED = 2**32 - 1  # what numpy takes, which transformers seeds as well


class InputConfig(Config):
    """What the model is shown; None keeps the checkpoint's own setting. `fps` is for clips that do not tell their own."""

    num_frames: int | None = Field(
        default=None, ge=1, le=1024, description="frames shown of a clip; None: the checkpoint's own"
    )
    min_pixels: int | None = Field(
        default=None, ge=1, description="pictures with fewer pixels are enlarged; None: the checkpoint's own"
    )
    max_pixels: int | None = Field(
        default=None, ge=1, description="pictures with more pixels are reduced; None: the checkpoint's own"
    )
    fps: float | None = Field(
        default=None, gt=0, description="frame rate of clips that do not tell their own; None: the checkpoint's own"
    )
    template_name: str | None = Field(
        default=None, description="wording of the question (a file of reward/templates); None: the checkpoint's own"
    )
    include_prompt: bool | None = Field(
        default=None, description="whether the model reads the clip's prompt; None: the checkpoint's own"
    )
    reference_order: Literal["canonical", "given", "average"] | None = Field(
        default=None,
        description="order of the references: sorted by content, as given, or the mean over orders; None: the checkpoint's own",
    )

    def overrides(self) -> dict[str, object]:
        """Return the fields that were set."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class RewardLossConfig(Config):
    """Pair loss; `both_bad` is read as a tie (neither side is better) or skipped; `people` weighs votes on who is wrong."""

    name: str = Field(default="rao_kupper", description="pair loss: rao_kupper, davidson, bradley_terry or margin")
    theta: float = Field(default=5.0, gt=1, description="of rao_kupper: larger means more ties")
    nu: float = Field(default=1.0, gt=0, description="of davidson: weight of a tie")
    margin: float = Field(
        default=1.0, gt=0, description="of margin: lead that the better clip must have, in units of the score"
    )
    both_bad: Literal["tie", "skip"] = Field(
        default="tie", description="pairs labelled both_bad are read as a tie, or left out"
    )
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


class LoraSettings(Config):
    """Low-rank adapters on all linear layers of the language model (rank 0: none)."""

    rank: int = Field(default=64, ge=0, description="rank of the adapter; 0: no adapter")
    alpha: float = Field(default=128, description="scale of the adapter: alpha / rank multiplies its output")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="dropout inside the adapter")


class RateConfig(Config):
    """Learning rate of each part in full training; 0 freezes the part."""

    lora: float = Field(default=2e-6, ge=0, description="learning rate of the adapters; 0: frozen")
    vision: float = Field(default=2e-6, ge=0, description="learning rate of the vision tower; 0: frozen")
    merger: float = Field(
        default=2e-6, ge=0, description="learning rate of the merger between vision and language; 0: frozen"
    )
    head: float = Field(default=2e-6, ge=0, description="learning rate of the head; 0: frozen")
    token: float = Field(
        default=2e-6, ge=0, description="learning rate of the embedding of the score's token; 0: frozen"
    )


class FullConfig(Config):
    """Training of the whole model, as published; one update sees batch_pairs * accumulation * ranks pairs."""

    lora: LoraSettings = LoraSettings()
    rates: RateConfig = RateConfig()
    epochs: float = Field(default=3, gt=0, le=MAX_EPOCHS, description="passes over the training pairs")
    batch_pairs: int = Field(default=1, ge=1, description="pairs of a batch on each rank")
    accumulation: int = Field(default=4, ge=1, description="batches of an update on each rank")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the updates with a rising rate")
    schedule: Literal["constant_with_warmup", "cosine", "linear"] = Field(
        default="constant_with_warmup", description="course of the rate after the warm-up"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay of AdamW")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients with a larger norm are scaled down to it")
    gradient_checkpointing: bool | None = Field(
        default=None, description="recompute activations in the backward pass; None: on a GPU"
    )
    bf16: bool | None = Field(default=None, description="train in bfloat16; None: on a GPU")
    zero: Literal[0, 1, 2] | None = Field(default=None, description="DeepSpeed ZeRO stage; None: no DeepSpeed")


class HeadConfig(Config):
    """Training of the head alone on features computed once per clip.

    Small steps keep the head small, which makes few and noisy labels enough (docs/dev/findings.md, "Small steps for the
    head"). Smaller ones, and stronger decay, shrink the gaps and with them the stated confidence.
    """

    rate: float = Field(default=0.002, gt=0, description="learning rate")
    epochs: float = Field(default=20, gt=0, le=MAX_EPOCHS, description="passes over the training pairs")
    batch_pairs: int = Field(default=128, ge=1, description="pairs of a batch")
    accumulation: int = Field(default=1, ge=1, description="batches of an update")
    weight_decay: float = Field(default=1.0, ge=0, description="weight decay of AdamW")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the updates with a rising rate")


class DataConfig(Config):
    """Which pairs are used: parts of the data set, mix of sources over the run, teacher filter.

    For a share `copies` of the decided training pairs the better clip also meets its own photos at rest, which must lose.
    """

    validation_share: float = Field(
        default=0.1, gt=0, lt=0.5, description="share of the pairs for validation; their people are in no other part"
    )
    test_share: float = Field(
        default=0.1, ge=0, lt=0.5, description="share of the pairs for the test; their people are in no other part"
    )
    mix: Literal["all", "cosine", "random", "human-only", "synthetic-only"] = Field(
        default="all",
        description="which pairs train: all, human and synthetic mixed along a cosine or a constant share, or one source alone",
    )
    random_share: float = Field(default=0.5, ge=0, le=1, description="of mix=random: share of synthetic pairs")
    teacher: bool = Field(
        default=False, description="drop synthetic pairs that a teacher trained on human pairs contradicts"
    )
    copies: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of the decided training pairs whose better clip also meets a still copy of its photos, which must lose",
    )


class RewardModelConfig(Config):
    """Everything that decides a reward model, beside the preferences themselves."""

    vlm: str | None = Field(
        default=None,
        description="checkpoint to build on: directory, hub id or tiny-vlm; None: tiny-vlm for clips up to 64 px, else Qwen2.5-VL-3B",
    )
    mode: Literal["auto", "head", "full"] = Field(
        default="auto",
        description="head: only the head, on features computed once; full: the whole model; auto: head for backbones up to 512 wide, else full",
    )
    inputs: InputConfig = InputConfig()
    loss: RewardLossConfig = RewardLossConfig()
    data: DataConfig = DataConfig()
    head: HeadConfig = HeadConfig()
    full: FullConfig = FullConfig()
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="seed of batches, splits and new weights")
    score_batch: int = Field(default=16, ge=1, description="clips scored together")
    save_every: int = Field(default=500, ge=1, description="updates between checkpoints")
    log_every: int = Field(default=20, ge=1, description="updates between lines of metrics.jsonl")

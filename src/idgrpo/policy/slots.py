"""Settings of stored clips and preferences, and of how a policy run goes: optimizer, average, evaluation, checkpoints, previews, engine, viewers, planning. Imports no torch."""

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.contract import QUANTISED, BaseWeights
from idgrpo.reward import LOSSES
from idgrpo.run.config import Config

MOST = 10**6
"""Counts above it are typing errors: a run of so many updates, cases or samples would not end."""
MOST_PIXELS, MOST_FRAMES = 8192, 10_000
MOST_SEED = 2**63 - 1
Beta = Annotated[float, Field(ge=0, lt=1)]
IMPORT_STRING = r"^[\w.]+:[\w.]+$"


class ClipsConfig(Config):
    """Stored clips that `method=sft` and `dpo` learn from; each is noised to a level of `rollout.window`'s range."""

    num_per_update: int = Field(
        default=16, ge=1, le=MOST, description="clips (of method=dpo: preferences) of an update, of all ranks"
    )
    keep: Literal["all", "best"] = Field(
        default="all",
        description="best: of each case only the clip that the reward model (`--rm`) scores highest; for generated clips",
    )
    guidance: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="w: learn u + w (v0(references) - v0(one person standing for all)) instead of the clip's velocity u, v0 "
        "the reference policy's; tells people apart; 0: the clips alone",
    )
    share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="of the clip in that target: u is replaced by share u + (1 - share) v0; 0 learns nothing from the clips "
        "but the guidance at their noised states, so that the base's own clips do",
    )


class DpoConfig(Config):
    """How `method=dpo` learns from preferences (`--data`); `clips.num_per_update` counts preferences."""

    beta: float = Field(
        default=500.0,
        gt=0,
        le=MOST,
        description="implicit score of a clip per unit of mean log density gained over the reference; larger holds the policy "
        "closer to it",
    )
    loss: str = Field(
        default="bradley_terry",
        description="pair loss of the scores' gap: bradley_terry (ties are left out), rao_kupper, davidson or margin",
    )
    theta: float = Field(default=5.0, gt=1, le=MOST, description="of rao_kupper: larger means more ties")
    nu: float = Field(default=1.0, gt=0, le=MOST, description="of davidson: weight of a tie")
    margin: float = Field(default=1.0, gt=0, le=MOST, description="of margin: lead that the better clip must have")
    both_bad: Literal["skip", "tie"] = Field(
        default="skip",
        description="pairs labelled both_bad are left out (neither clip is to be learnt), or read as a tie",
    )

    @model_validator(mode="after")
    def _registered(self) -> "DpoConfig":
        if self.loss not in LOSSES:
            raise ValueError(f"dpo.loss {self.loss!r} is not known (known: {', '.join(LOSSES)})")
        if self.both_bad == "tie" and not self._takes_ties():
            raise ValueError(
                f"dpo.both_bad=tie has no effect: dpo.loss={self.loss} learns nothing from ties; set dpo.loss=rao_kupper"
            )
        return self

    def _takes_ties(self) -> bool:
        from idgrpo.reward.losses import takes_ties

        return takes_ties(self.loss)

    def arguments(self) -> dict[str, float]:
        """Give the settings that the chosen loss takes as keyword arguments."""
        from idgrpo.reward.losses import load_loss, settings_of

        return {
            name: getattr(self, name) for name in settings_of(load_loss(self.loss)) if name in type(self).model_fields
        }


class OptimizerConfig(Config):
    """AdamW and the course of its learning rate."""

    lr: float = Field(default=1e-3, gt=0, le=10, description="learning rate of AdamW")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), description="decay of AdamW's two moments")
    eps: float = Field(
        default=1e-8, gt=0, le=1, description="LoRA-RL gradients may have rms 5e-9: compare with metric grad_rms"
    )
    weight_decay: float = Field(default=1e-4, ge=0, le=1, description="weight decay of AdamW")
    max_grad_norm: float = Field(
        default=1.0, gt=0, le=MOST, description="gradients with a larger norm are scaled down to it"
    )
    warmup: int = Field(default=0, ge=0, le=MOST, description="updates of linear warm-up")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="of the rate after the warm-up; cosine: half a wave down to 0 at `num_updates`"
    )

    def rate(self, update: int, num_updates: int) -> float:
        """Give the learning rate of an update, 0 .. num_updates - 1."""
        if update < self.warmup:
            return self.lr * (update + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        progress = (update - self.warmup) / max(num_updates - self.warmup, 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))


class EmaConfig(Config):
    """Exponential average of the trained weights; it is what is evaluated and published. 0 switches it off."""

    decay: float = Field(
        default=0.9, ge=0, lt=1, description="decay of the average a step; 0: the last weights are published"
    )


class EvaluationConfig(Config):
    """Held-out cases (`--eval-cases`) that are sampled and measured during training."""

    every: int = Field(default=0, ge=0, le=MOST, description="updates between held-out evaluations; 0: never")
    finder: str = Field(default="tiny", description="who finds people in the held-out clips: tiny, facenet")
    device: str | None = Field(default=None, description="where the finder works; None: where it does by itself")
    seed: int = Field(
        default=0, ge=0, le=MOST_SEED, description="seed of the held-out clips, the same at every evaluation"
    )
    sampler: SamplerConfig = Field(
        default=SamplerConfig(),
        description="steps, guidance, size and batch of the held-out clips; size: None is the training size",
    )


class CheckpointConfig(Config):
    """What a stopped run goes on from."""

    every: int = Field(default=10, ge=1, le=MOST, description="updates between checkpoints")
    keep_last: int = Field(default=2, ge=1, le=MOST, description="newest checkpoints kept")
    keep_every: int = Field(default=0, ge=0, le=MOST, description="also keep every n-th update; 0: none")


class PreviewConfig(Config):
    """Samples of the training that people look at."""

    every: int = Field(
        default=20, ge=0, le=MOST, description="updates between written samples, for people to look at; 0: never"
    )
    num_samples: int = Field(default=4, ge=1, le=MOST, description="samples written each time")


class EngineConfig(Config):
    """How the work is spread over ranks and memory; the result is the same."""

    encoder_device: str | None = Field(
        default=None, description="where the text encoder works before training; None: where the base does"
    )
    zero: int | None = Field(
        default=None,
        ge=0,
        le=3,
        description="DeepSpeed ZeRO stage 1, 2 or 3; None or 0: plain AdamW, every rank whole, gradients summed over ranks",
    )
    whole_rollout: bool = Field(
        default=True,
        description="ZeRO 3: gather the weights once for the whole rollout; false gathers layer by layer, which is slower "
        "and never holds the whole base",
    )

    recompute: Literal["auto", "on", "selective", "off"] = Field(
        default="auto",
        description="recompute activations of the blocks in the backward pass: a forward more, far less memory, same "
        "gradients; selective: keep what attention gave, recompute the rest; auto: on, for all bases "
        "but those of the embedded world",
    )
    compile: bool = Field(
        default=False, description="torch.compile of the transformer blocks; the first updates are slow"
    )
    base_weights: BaseWeights | None = Field(
        default=None,
        description="weights of the frozen base: bf16, float32, or quantised to int8 or fp8 (torchao), nf4 (bitsandbytes); rollout "
        "and replay use the same ones, adapters stay in float32; None: bf16 on a GPU, float32 on a CPU and with train=full",
    )
    attention: str | None = Field(
        default=None,
        description="diffusers' attention backend, such as native or flash; it must have a backward pass; None: diffusers' own choice",
    )

    @field_validator("attention")
    @classmethod
    def _attention_has_gradients(cls, name: str | None) -> str | None:
        if name is not None and name.lstrip("_").startswith("sage"):
            raise ValueError("SageAttention has no backward pass; use it in `sample` only")
        return name

    def refusals_of_weights(self, train: str, merged: bool) -> list[tuple[bool, str]]:
        """Give what the weights of the base do not go with: whether it holds, and what to say then."""
        kind = self.base_weights
        is_quantised = kind in QUANTISED
        return [
            (
                train == "full" and kind not in (None, "float32"),
                f"engine.base_weights={kind} is for a frozen base; with train=full the weights themselves are trained, in float32",
            ),
            (
                is_quantised and bool(self.zero),
                f"engine.zero={self.zero}: DeepSpeed moves and divides weights as plain tensors, which {kind} weights are not; "
                "leave engine.zero out: every rank then holds the quantised base, and what is trained is small",
            ),
            (
                is_quantised and merged,
                f"rollout.merged folds the adapter into the weights, which {kind} would round away; set rollout.merged=false",
            ),
        ]

    @model_validator(mode="after")
    def _layer_by_layer_is_zero_3(self) -> "EngineConfig":
        if not self.whole_rollout and self.zero != 3:
            raise ValueError(
                "engine.whole_rollout=false needs engine.zero=3; elsewhere every rank holds the whole base"
            )
        return self


class MetricsConfig(Config):
    """Viewers that get a copy of metrics.jsonl; one that is not installed or fails is left out with a warning."""

    sinks: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = Field(
        default=("tensorboard",), description="viewers: tensorboard, trackio, wandb"
    )


class PlanConfig(Config):
    """The GPU that `--dry-run --gpus N` reckons with; training does not read it."""

    tflops: float = Field(
        default=300.0, gt=0, le=10**9, description="matrix products reached in practice, not the data sheet's"
    )
    memory_gib: float = Field(default=80.0, gt=0, le=10**9, description="memory of one GPU, in GiB")
    link_gb_s: float = Field(default=50.0, gt=0, le=10**9, description="between ranks, the slowest link of the ring")
    reward_gib: float = Field(
        default=8.0, ge=0, le=10**9, description="reward model on the same GPU; 0 with a scoring service"
    )

"""Settings of the policy stage: nested slots in which unknown fields cannot exist. Imports no torch."""

import math
from typing import Literal

from pydantic import Field, model_validator

from idgrpo.policy import CONTROLS, LOSSES
from idgrpo.run.config import Config

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ffn.net.0.proj", "ffn.net.2")


class SizeConfig(Config):
    """Size of the training videos; None everywhere means the base's own training size."""

    width: int | None = Field(default=None, ge=16)
    height: int | None = Field(default=None, ge=16)
    frames: int | None = Field(default=None, ge=1)


class WindowConfig(Config):
    """Which steps are stochastic and trained: `size` steps out of [first, last), the same for all groups of an update."""

    size: int = Field(default=2, ge=1)
    first: int = Field(default=0, ge=0)
    last: int = Field(
        default=5, ge=1, description="one past the last step the window may hold; the final step is never in it"
    )
    move: Literal["random", "slide", "fixed", "scatter"] = "random"
    every: int = Field(default=1, ge=1, description="updates between moves")
    stride: int = Field(default=1, ge=1, description="steps a `slide` moves")

    @model_validator(mode="after")
    def _fits(self) -> "WindowConfig":
        if self.size > self.last - self.first:
            raise ValueError(
                f"window.size {self.size} does not fit in steps [{self.first}, {self.last}), which hold "
                f"{self.last - self.first}; nearest valid: window.size={max(self.last - self.first, 1)}"
            )
        return self


class GuidanceConfig(Config):
    """Classifier-free guidance in rollout and replay alike; `none` trains without it."""

    mode: Literal["none", "both-grad", "detach-uncond"] = "none"
    scale: float | None = Field(default=None, description="None: the base's own")
    image_scale: float | None = Field(
        default=None, description="Phantom's scale of the image branch; None: the base's own"
    )


class RolloutConfig(Config):
    """How a video is drawn in training."""

    num_steps: int = Field(default=8, ge=2)
    shift: float = Field(default=3.0, gt=0)
    law: Literal["wan", "flow", "dance", "cps"] = "wan"
    std_min: float = Field(default=0.1, ge=0, description="law wan: std = std_min + (std_max - std_min) sigma")
    std_max: float | None = Field(default=0.9, gt=0, description="law wan; None: the second sigma of the schedule")
    eta: float | None = Field(default=None, gt=0, description="strength of the law; None: what its authors publish")
    noise: Literal["different", "shared"] = "different"
    window: WindowConfig = WindowConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    batch_size: int = Field(
        default=48, ge=1, description="samples of one forward; changes speed and memory, not the result"
    )
    solver: Literal["euler", "second-order"] = Field(
        default="euler", description="of the deterministic steps after the window"
    )
    merged: bool = Field(default=False, description="merge the adapter into the base for the rollout (float32 only)")

    @model_validator(mode="after")
    def _last_step_is_deterministic(self) -> "RolloutConfig":
        if self.window.last > self.num_steps - 1:
            raise ValueError(
                f"window.last {self.window.last} with num_steps {self.num_steps}: the last step (index "
                f"{self.num_steps - 1}) must be deterministic, or noise stays in the scored video; "
                f"nearest valid: window.last={self.num_steps - 1}"
            )
        return self


class GroupConfig(Config):
    """An update takes `num_cases` groups of `size` samples of one case each."""

    num_cases: int = Field(default=6, ge=1)
    size: int = Field(default=8, ge=2)


class AdvantageConfig(Config):
    """A = (r - mean of the group) / (std + eps)."""

    scale: Literal["group", "batch"] = "group"
    std_floor: float = Field(
        default=1e-3, ge=0, description="keeps numerical noise in a reward from becoming an advantage"
    )
    eps: float = Field(default=1e-6, ge=0)
    clamp: float = Field(default=5.0, gt=0)
    win_rate: bool = Field(default=False, description="replace each reward by its win rate inside the group")
    controls: tuple[str, ...] = Field(
        default=(),
        description="what the reward must not be earned by is taken out of the advantages: sharpness, ripple, saturation",
    )
    hold: float = Field(
        default=0.0,
        ge=0,
        description="pull controls back to where the base's clips of the same cases and noise are: advantage (in stds) per "
        "std of the control and unit of its log ratio; costs a sample of the base per group",
    )

    @model_validator(mode="after")
    def _known(self) -> "AdvantageConfig":
        if unknown := [name for name in self.controls if name not in CONTROLS]:
            raise ValueError(f"advantage.controls {unknown[0]!r} is not known (known: {', '.join(CONTROLS)})")
        if self.hold and not self.controls:
            raise ValueError(
                "advantage.hold has nothing to hold: name some advantage.controls, or set advantage.hold=0"
            )
        return self


class RewardConfig(Config):
    """How rewards are combined and what happens when scoring fails."""

    measures: tuple[Literal["identity", "worst"], ...] = Field(
        default=(),
        description="identity measures added to the reward model (which is named `rm` then): mean over people, worst person",
    )
    finder: str = Field(default="facenet", description="who finds people for `measures`: tiny, facenet")
    weights: dict[str, float] = Field(default_factory=dict, description="per reward name; a reward not named weighs 1")
    normalise: Literal["none", "group"] = Field(
        default="none", description="group: z-score each reward inside the group first"
    )
    overlap: bool = Field(
        default=False, description="score a batch while the next one is rolled out; for a service or a second GPU"
    )
    num_retries: int = Field(default=3, ge=0)
    retry_wait_s: float = Field(default=20.0, ge=0)
    min_valid_share: float = Field(
        default=0.5, ge=0, le=1, description="below it the update is retried, then the run stops"
    )


class KLConfig(Config):
    """Distance to the reference policy, in units of the step's noise."""

    weight: float = Field(default=0.01, ge=0, description="0 switches the reference pass off")
    steps: Literal["all", "first"] = Field(
        default="all", description="first: only the first stored step of each sample"
    )
    reference: Literal["base", "start"] = Field(
        default="base", description="start: the adapter the run started from, frozen"
    )


class LossConfig(Config):
    """Policy loss of one stored step, or of one finished sample noised again."""

    name: str = "clip"
    credit: Literal["steps", "forward"] = Field(
        default="steps",
        description="steps: the noise of the window's steps; forward: whole samples of deterministic rollouts, noised again",
    )
    clip: float = Field(default=1e-3, gt=0, description="on the ratio of *mean* log densities")
    kl_limit: float = Field(
        default=1e-3, gt=0, description="kl-mask: samples further than this from the old policy stop"
    )
    num_passes: int = Field(default=1, ge=1, description="optimizer steps per rollout")
    micro_batch: int = Field(default=32, ge=1, description="stored steps replayed in one forward")
    step_weights: Literal["none", "equalise"] = "none"
    ratio_tolerance: float | None = Field(
        default=None,
        gt=0,
        description="on-policy self-check: largest |log ratio|; None: 1e-5 in float32, 2e-4 otherwise",
    )
    mean_tolerance: float | None = Field(
        default=None, gt=0, description="on-policy self-check: rms shift of the mean in step stds; None: 1e-3, or 5e-2"
    )

    @model_validator(mode="after")
    def _known(self) -> "LossConfig":
        if self.name not in LOSSES:
            raise ValueError(f"loss.name {self.name!r} is not known (known: {', '.join(LOSSES)})")
        return self


class OptimizerConfig(Config):
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(
        default=1e-8, gt=0, description="LoRA-RL gradients may have rms 5e-9: compare with metric grad_rms"
    )
    weight_decay: float = Field(default=1e-4, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup: int = Field(default=0, ge=0, description="updates of linear warm-up")
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


class LoraConfig(Config):
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=16, gt=0)
    targets: tuple[str, ...] = ATTENTION + FEED_FORWARD


class EmaConfig(Config):
    """Exponential average of the trained weights; it is what is evaluated and published. 0 switches it off."""

    decay: float = Field(default=0.9, ge=0, lt=1)


class EvaluationConfig(Config):
    every: int = Field(default=0, ge=0, description="updates between held-out evaluations; 0: never")
    finder: str = Field(default="tiny", description="who finds people in the held-out clips: tiny, facenet")
    seed: int = Field(default=0, ge=0, description="seed of the held-out clips, the same at every evaluation")


class CheckpointConfig(Config):
    every: int = Field(default=10, ge=1, description="updates between checkpoints")
    keep_last: int = Field(default=2, ge=1)
    keep_every: int = Field(default=0, ge=0, description="also keep every n-th update; 0: none")


class PreviewConfig(Config):
    every: int = Field(default=20, ge=0, description="updates between written samples, for people to look at; 0: never")
    num_samples: int = Field(default=4, ge=1)


class EngineConfig(Config):
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
        "gradients; selective: keep what matrix products and attention gave, recompute the rest; auto: on, for all bases "
        "but those of the embedded world",
    )
    compile: bool = Field(
        default=False, description="torch.compile of the transformer blocks; the first updates are slow"
    )

    @model_validator(mode="after")
    def _layer_by_layer_is_zero_3(self) -> "EngineConfig":
        if not self.whole_rollout and self.zero != 3:
            raise ValueError(
                "engine.whole_rollout=false needs engine.zero=3; elsewhere every rank holds the whole base"
            )
        return self


class MetricsConfig(Config):
    """Viewers that get a copy of metrics.jsonl; one that is not installed or fails is left out with a warning."""

    sinks: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ("tensorboard",)


class PlanConfig(Config):
    """The GPU that `--dry-run --gpus N` reckons with; training does not read it."""

    tflops: float = Field(default=300.0, gt=0, description="matrix products reached in practice, not the data sheet's")
    memory_gib: float = Field(default=80.0, gt=0)
    link_gb_s: float = Field(default=50.0, gt=0, description="between ranks, the slowest link of the ring")
    reward_gib: float = Field(default=8.0, ge=0, description="reward model on the same GPU; 0 with a scoring service")


class PolicyConfig(Config):
    """Everything that decides what a run of the policy stage computes."""

    seed: int = 0
    num_updates: int = Field(default=120, ge=1)
    train: Literal["lora", "full"] = Field(
        default="lora",
        description="an adapter, or all weights of the transformer in float32 (`--recipe full` sets a fitting rate)",
    )
    size: SizeConfig = SizeConfig()
    group: GroupConfig = GroupConfig()
    rollout: RolloutConfig = RolloutConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    reward: RewardConfig = RewardConfig()
    loss: LossConfig = LossConfig()
    kl: KLConfig = KLConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig = LoraConfig()
    ema: EmaConfig = EmaConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    preview: PreviewConfig = PreviewConfig()
    engine: EngineConfig = EngineConfig()
    metrics: MetricsConfig = MetricsConfig()
    plan: PlanConfig = PlanConfig()

    @model_validator(mode="after")
    def _forward_credit_needs_different_starts(self) -> "PolicyConfig":
        if self.loss.credit == "forward" and self.rollout.noise == "shared":
            raise ValueError(
                "loss.credit=forward draws samples without noise in their steps: with rollout.noise=shared the members of a "
                "group would be equal; set rollout.noise=different"
            )
        return self

    @model_validator(mode="after")
    def _tolerance_below_clip(self) -> "PolicyConfig":
        if self.loss.ratio_tolerance is not None and self.loss.ratio_tolerance >= self.loss.clip:
            raise ValueError(
                f"loss.ratio_tolerance {self.loss.ratio_tolerance} must be below loss.clip {self.loss.clip}: "
                f"a check wider than the clip lets clipped samples pass; e.g. loss.ratio_tolerance={self.loss.clip / 10}"
            )
        return self

"""Settings of the policy stage: nested slots in which unknown fields cannot exist. Imports no torch."""

from collections.abc import Collection, Iterable
from typing import Literal

from pydantic import Field, model_validator

from idgrpo.flow import LAWS, SOLVERS
from idgrpo.policy import CONTROLS, FORWARD_LOSSES, LOSSES
from idgrpo.policy.slots import (
    IMPORT_STRING,
    MOST,
    MOST_FRAMES,
    MOST_PIXELS,
    MOST_SEED,
    CheckpointConfig,
    ClipsConfig,
    Config,
    DpoConfig,
    EmaConfig,
    EngineConfig,
    EvaluationConfig,
    MetricsConfig,
    OptimizerConfig,
    PlanConfig,
    PreviewConfig,
)

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ffn.net.0.proj", "ffn.net.2")


def unknown(field: str, names: Iterable[str], known: Collection[str]) -> list[str]:
    """Say which names a registry does not know, one line each."""
    return [f"{field} {name!r} is not known (known: {', '.join(known)})" for name in names if name not in known]


def refuse(problems: Iterable[str]) -> None:
    """Raise ValueError with all problems together; nothing where there are none."""
    if lines := list(problems):
        raise ValueError("\n  ".join(lines))


class SizeConfig(Config):
    """Size of the training videos; None everywhere means the base's own training size (SFT: the size of the clips)."""

    width: int | None = Field(
        default=None, ge=16, le=MOST_PIXELS, description="width in pixels; None: the base's training width"
    )
    height: int | None = Field(
        default=None, ge=16, le=MOST_PIXELS, description="height in pixels; None: the base's training height"
    )
    frames: int | None = Field(
        default=None, ge=1, le=MOST_FRAMES, description="frames of a clip; None: the base's training length"
    )


class WindowConfig(Config):
    """Which steps are stochastic and trained: `size` steps out of [first, last), the same for all groups of an update.

    Low indices are high noise levels, where it is decided who is who. SFT draws its noise levels from the same range.
    """

    size: int = Field(default=2, ge=1, le=1000, description="stochastic, trained steps of a sample")
    first: int = Field(default=0, ge=0, le=1000, description="first step that the window may hold")
    last: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="one past the last step the window may hold; the final step is never in it",
    )
    move: Literal["random", "slide", "fixed", "scatter"] = Field(
        default="random", description="how the window moves: random place, sliding, fixed, or scattered steps"
    )
    every: int = Field(default=1, ge=1, le=MOST, description="updates between moves")
    stride: int = Field(default=1, ge=1, le=1000, description="steps a `slide` moves")

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

    mode: Literal["none", "both-grad", "detach-uncond"] = Field(
        default="none",
        description="none; both-grad: gradient through both branches; detach-uncond: through the conditional branch only",
    )
    scale: float | None = Field(default=None, ge=-100, le=100, description="None: the base's own")
    image_scale: float | None = Field(
        default=None, ge=-100, le=100, description="Phantom's scale of the image branch; None: the base's own"
    )


class RolloutConfig(Config):
    """How a video is drawn in training."""

    num_steps: int = Field(default=8, ge=2, le=1000, description="denoising steps of a sample")
    shift: float = Field(default=3.0, gt=0, le=1000, description="shift of the noise schedule")
    law: str = Field(default="wan", description=f"stochastic law: {', '.join(LAWS)}")
    std_min: float = Field(default=0.1, ge=0, le=10, description="law wan: std = std_min + (std_max - std_min) sigma")
    std_max: float | None = Field(
        default=0.9, gt=0, le=10, description="law wan; None: the second sigma of the schedule"
    )
    eta: float | None = Field(
        default=None, gt=0, le=10, description="strength of the law; None: what its authors publish"
    )
    reversed_references: bool = Field(
        default=False, description="VACE: the last reference first, as diffusers' pipeline puts them"
    )
    noise: Literal["different", "shared"] = Field(
        default="different",
        description="different: each sample of a group starts from its own noise; shared: all from the same",
    )
    window: WindowConfig = WindowConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    batch_size: int = Field(
        default=48, ge=1, le=MOST, description="samples of one forward; changes speed and memory, not the result"
    )
    solver: str = Field(default="euler", description=f"of the deterministic steps: {', '.join(SOLVERS)}")
    decoder: str | None = Field(
        default=None,
        pattern=IMPORT_STRING,
        description="small decoder for rewards and previews, package.module:function: latents as the transformer makes them, float32 "
        "[clip, channel, frame, height, width] -> pixels in 0..1 [clip, frame, 3, height, width]; None: the base's VAE",
    )
    merged: bool = Field(default=False, description="merge the adapter into the base for the rollout (float32 only)")
    decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="loss.name=nft: who draws the clips is a slow average of the policy, old <- decay old + (1 - decay) policy "
        "after each update; 0: the policy itself",
    )

    @model_validator(mode="after")
    def _fits(self) -> "RolloutConfig":
        refuse(unknown("rollout.law", [self.law], LAWS) + unknown("rollout.solver", [self.solver], SOLVERS))
        if self.window.last > self.num_steps - 1:
            raise ValueError(
                f"window.last {self.window.last} with num_steps {self.num_steps}: the last step (index "
                f"{self.num_steps - 1}) must be deterministic, or noise stays in the scored video; "
                f"nearest valid: window.last={self.num_steps - 1}"
            )
        return self


class GroupConfig(Config):
    """An update takes `num_cases` groups of `size` samples of one case each."""

    num_cases: int = Field(default=6, ge=1, le=MOST, description="groups of an update, each of one case")
    size: int = Field(default=8, ge=2, le=MOST, description="samples of a group")


class AdvantageConfig(Config):
    """A = (r - mean of the group) / (std + eps)."""

    scale: Literal["group", "batch"] = Field(
        default="group",
        description="rewards are divided by the standard deviation of their group, or of the whole batch",
    )
    std_floor: float = Field(
        default=1e-3, ge=0, le=MOST, description="keeps numerical noise in a reward from becoming an advantage"
    )
    eps: float = Field(default=1e-6, ge=0, le=1, description="added to that standard deviation")
    clamp: float = Field(
        default=5.0, gt=0, le=MOST, description="advantages are cut at plus and minus this, in standard deviations"
    )
    win_rate: bool = Field(default=False, description="replace each reward by its win rate inside the group")
    controls: tuple[str, ...] = Field(
        default=(),
        description="measures whose share is taken out of the advantages (shortcuts to a reward): sharpness, ripple, saturation",
    )
    hold: float = Field(
        default=0.0,
        ge=0,
        le=MOST,
        description="pull controls back to where the base's clips of the same cases and noise are: advantage (in stds) per "
        "std of the control and unit of its log ratio; costs a sample of the base per group",
    )

    @model_validator(mode="after")
    def _known(self) -> "AdvantageConfig":
        refuse(unknown("advantage.controls", self.controls, CONTROLS))
        if self.hold and not self.controls:
            raise ValueError(
                "advantage.hold has nothing to hold: name some advantage.controls, or set advantage.hold=0"
            )
        return self


class PolicyRewardConfig(Config):
    """How rewards are combined and what happens when scoring fails."""

    contrast: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="lambda: score = r(clip, references) - lambda mean_i r(clip, person i standing for all); 0: plain",
    )
    sources: dict[str, str] = Field(
        default_factory=dict,
        description="rewards by name (`--reward NAME=SOURCE`): a reward model, http://.., package.module:callable, the name of "
        "an installed reward, or a measure of `eval` (one where lower is better needs a weight of its own); `--rm` adds one more, called rm",
    )
    finder: str = Field(
        default="facenet", description="who finds people for measures that are rewards: tiny, facenet, arcface, body"
    )
    weights: dict[str, float] = Field(default_factory=dict, description="per reward name; a reward not named weighs 1")
    normalise: Literal["none", "group"] = Field(
        default="none", description="group: z-score each reward inside the group first"
    )
    overlap: bool | None = Field(
        default=None,
        description="score a batch while the next one is rolled out; None: where a reward is a service, for on one device the two "
        "only get into each other's way",
    )
    num_retries: int = Field(default=3, ge=0, le=1000, description="further attempts when scoring fails")
    retry_wait_s: float = Field(default=20.0, ge=0, le=86_400, description="wait before a further attempt, in seconds")
    min_valid_share: float = Field(
        default=0.5, ge=0, le=1, description="below it the update is retried, then the run stops"
    )

    @property
    def measured(self) -> dict[str, str]:
        """Name of a reward -> measure, for those of the sources that are measures."""
        if not self.sources:
            return {}
        from idgrpo.evaluate.measure import is_measure

        return {name: source for name, source in self.sources.items() if is_measure(source)}


class KLConfig(Config):
    """Distance to the reference policy, in units of the step's noise."""

    weight: float = Field(default=0.01, ge=0, le=MOST, description="0 switches the reference pass off")
    steps: Literal["all", "first"] = Field(
        default="all", description="first: only the first stored step of each sample"
    )
    reference: Literal["base", "start"] = Field(
        default="base",
        description="the reference policy of KL, drift, guidance of clips and DPO; start: what the run started from (`--init`), "
        "frozen",
    )


class PolicyLossConfig(Config):
    """Policy loss of one stored step, or of one finished sample noised again."""

    name: str = Field(
        default="clip",
        description=f"policy loss: {', '.join(LOSSES)}; of forward credit only: {', '.join(FORWARD_LOSSES)}",
    )
    credit: Literal["steps", "forward"] = Field(
        default="steps",
        description="of GRPO; steps: the noise of the window's steps; forward: whole samples of deterministic rollouts, "
        "noised again",
    )
    clip: float = Field(default=1e-3, gt=0, le=10, description="on the ratio of *mean* log densities")
    kl_limit: float = Field(
        default=1e-3, gt=0, le=MOST, description="kl-mask: samples further than this from the old policy stop"
    )
    beta: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="nft: how far its implicit policies lie from the old one; a larger beta holds the policy closer to it",
    )
    num_passes: int = Field(default=1, ge=1, le=1000, description="optimizer steps per rollout")
    micro_batch: int = Field(default=32, ge=1, le=MOST, description="stored steps replayed in one forward")
    step_weights: Literal["none", "equalise"] = Field(
        default="none",
        description="equalise: weigh the window's steps so that all have the same sensitivity; none: all alike",
    )
    ratio_tolerance: float | None = Field(
        default=None,
        gt=0,
        description="on-policy self-check: largest |log ratio|; None: 1e-5 in float32, else 2e-4, or 5e-4 (sum of guidance weights)^2",
    )
    mean_tolerance: float | None = Field(
        default=None,
        gt=0,
        description="on-policy self-check: rms shift of the mean in step stds; None: 1e-3, or 5e-2 x that sum",
    )

    @model_validator(mode="after")
    def _known(self) -> "PolicyLossConfig":
        refuse(unknown("loss.name", [self.name], LOSSES))
        if self.name in FORWARD_LOSSES and self.credit != "forward":
            raise ValueError(
                f"loss.name={self.name} judges finished clips that are noised again; set loss.credit=forward"
            )
        return self


class LoraConfig(Config):
    """The adapter that is trained (`train=lora`)."""

    rank: int = Field(default=16, ge=1, le=8192, description="rank of the adapter")
    alpha: float = Field(
        default=16, gt=0, le=MOST, description="scale of the adapter: alpha / rank multiplies its output"
    )
    targets: tuple[str, ...] = Field(
        default=ATTENTION + FEED_FORWARD,
        min_length=1,
        description="ends of layer names; `to_q` is in self- and cross-attention, `attn2.to_q` in cross-attention alone",
    )


class PolicyConfig(Config):
    """Everything that decides what a run of the policy stage computes."""

    method: Literal["grpo", "sft", "dpo"] = Field(
        default="grpo",
        description="grpo: the policy's own samples, credited by a reward; sft: stored clips (`--data`), flow matching; "
        "dpo: preferences between stored clips (`--data`), against the frozen reference",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=MOST_SEED,
        description="seed of all draws: noise, windows, order of cases, new adapter weights",
    )
    num_updates: int = Field(
        default=120, ge=1, le=MOST, description="optimizer updates (of `loss.num_passes` steps each) of the whole run"
    )
    train: Literal["lora", "full"] = Field(
        default="lora",
        description="an adapter, or all weights of the transformer in float32 (`--recipe full` sets a fitting rate)",
    )
    size: SizeConfig = SizeConfig()
    group: GroupConfig = GroupConfig()
    clips: ClipsConfig = ClipsConfig()
    dpo: DpoConfig = DpoConfig()
    rollout: RolloutConfig = RolloutConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    reward: PolicyRewardConfig = PolicyRewardConfig()
    loss: PolicyLossConfig = PolicyLossConfig()
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

    @property
    def credits_finished_samples(self) -> bool:
        """Say whether whole samples are credited, noised again: stored clips always, rollouts with `loss.credit=forward`."""
        return self.method != "grpo" or self.loss.credit == "forward"

    @property
    def asks_reference(self) -> bool:
        """Say whether anything is held against a reference policy: KL, drift, guidance of clips, or the scores of DPO."""
        hold = self.advantage.hold if self.method == "grpo" else 0.0
        return bool(self.kl.weight or hold or self.clips.guidance or self.method == "dpo")

    @property
    def swaps_reference(self) -> bool:
        """Say whether the reference policy is a copy of trained weights put in their place.

        Whole weights have no adapter to switch off: the weights that the run began with stand in for the base.
        """
        return self.kl.reference == "start" or self.train == "full"

    @model_validator(mode="after")
    def _consistent(self) -> "PolicyConfig":
        refuse(
            problem
            for found, problem in (*self._of_the_method(), *self._of_the_engine(), *self._of_the_loss())
            if found
        )
        return self

    def _of_the_method(self) -> list[tuple[bool, str]]:
        grpo = self.method == "grpo"
        return [
            (
                grpo and self.loss.credit == "forward" and self.rollout.noise == "shared",
                "loss.credit=forward draws samples without noise in their steps: with rollout.noise=shared the members of "
                "a group would be equal; set rollout.noise=different",
            ),
            (
                grpo and self.clips != ClipsConfig(),
                "clips.* are settings of method=sft and dpo: they have no effect on GRPO; leave them out",
            ),
            (
                self.method != "dpo" and self.dpo != DpoConfig(),
                f"dpo.* are settings of method=dpo: they have no effect on {self.method}; leave them out",
            ),
            (
                self.method == "dpo" and self.clips != ClipsConfig(num_per_update=self.clips.num_per_update),
                "of clips.* only num_per_update (preferences of an update) is a setting of method=dpo; leave the others out",
            ),
            (
                not grpo and self.clips.share < 1 and not self.clips.guidance,
                "clips.share below 1 without clips.guidance pulls the policy to its own reference and teaches nothing; set "
                "clips.guidance=3 or clips.share=1",
            ),
            (
                not grpo and bool(self.reward.sources),
                "reward.sources are for GRPO: method=sft only ranks clips with the reward model (clips.keep=best), and dpo reads "
                "none; leave them out",
            ),
        ]

    def _of_the_engine(self) -> list[tuple[bool, str]]:
        engine, grpo = self.engine, self.method == "grpo"
        hold, merged = self.advantage.hold if grpo else 0.0, grpo and self.rollout.merged
        return [
            (
                engine.zero == 3 and self.swaps_reference and self.asks_reference,
                "ZeRO 3 keeps no whole trained weights on a rank, and kl.reference=start (with train=full always) swaps "
                "them wherever the reference is asked: in every replay, for advantage.hold, clips.guidance and method=dpo; use "
                "engine.zero=2, or (not with dpo) kl.weight=0 with advantage.hold=0 and clips.guidance=0",
            ),
            (
                engine.zero == 3 and self.kl.steps == "first",
                "ZeRO 3 gathers weights in every forward, so all ranks must make equally many; kl.steps=first does not; "
                "use engine.zero=2, or kl.steps=all",
            ),
            (
                bool(hold) and not engine.whole_rollout,
                "without whole rollouts every forward gathers weights, so all ranks must make equally many; the base's "
                "clips of advantage.hold are not dealt out evenly; set advantage.hold=0",
            ),
            (
                merged and not engine.whole_rollout,
                "rollout.merged folds the adapter into whole weights, engine.whole_rollout=false never has them; set "
                "rollout.merged=false",
            ),
            *engine.refusals_of_weights(self.train, merged),
        ]

    def _of_the_loss(self) -> list[tuple[bool, str]]:
        tolerance, clip = self.loss.ratio_tolerance, self.loss.clip
        return [
            (
                self.rollout.decay > 0 and (self.method != "grpo" or self.loss.name not in FORWARD_LOSSES),
                "rollout.decay draws clips with another policy than the one that is trained: a loss of ratios would cut all of "
                f"them; set loss.name={FORWARD_LOSSES[0]} with loss.credit=forward, or rollout.decay=0",
            ),
            (
                self.rollout.decay > 0 and self.engine.zero == 3,
                "ZeRO 3 keeps no whole trained weights on a rank, and rollout.decay swaps them for the rollout; use engine.zero=2",
            ),
            (
                tolerance is not None and tolerance >= clip,
                f"loss.ratio_tolerance {tolerance} must be below loss.clip {clip}: a check wider than the clip lets "
                f"clipped samples pass; e.g. loss.ratio_tolerance={clip / 10}",
            ),
        ]

"""What an update of the policy stage costs, by arithmetic: forwards, operations, memory, traffic, seconds. Imports no torch.

The model is written out in docs/policy.md; `tests/bench/test_policy_cost.py` holds it against counts and measured runs.
"""

import math
from dataclasses import dataclass

from idgrpo.bases.contract import QUANTISED
from idgrpo.policy.config import PolicyConfig

REPLAY_FORWARDS = 3.24
"""A replayed step with recomputed activations, in forwards: forward, recompute, and backward to activations (weights of
the base get no gradient; attention costs twice its forward). Counted on the meta device: 3.23 for VACE, 3.25 for Phantom."""
WEIGHT_FORWARDS = 1.0
"""What gradients of all weights cost beside it (`train=full`): every matrix product once more."""
SUM_TRAFFIC = 2.0
"""A ring all-reduce moves each byte twice (reduce-scatter and all-gather), a reduce-scatter or an all-gather once."""
LIVE_PARAMETERS = 1e9
"""DeepSpeed's stage3_max_live_parameters: below it the weights of a forward are still there for its backward."""


@dataclass(frozen=True)
class UpdateWork:
    """What one update does, in counts."""

    samples: int
    rollout_forwards: int
    replayed_steps: int
    reference_steps: int
    scored_sets: int  # clips that a reward model reads, each reference set counted

    def say(self) -> str:
        """Tell the counts in one line."""
        parts = [
            f"{self.rollout_forwards} rollout forwards" if self.rollout_forwards else "",
            f"{self.replayed_steps} replayed steps",
            f"{self.reference_steps} reference steps" if self.reference_steps else "",
            f"{self.scored_sets} clips scored" if self.scored_sets else "",
        ]
        return f"{self.samples} videos; each: {', '.join(part for part in parts if part)}"


def samples_per_update(config: PolicyConfig) -> int:
    """Count the videos of an update, of all ranks; a preference holds two."""
    if config.method == "grpo":
        return config.group.num_cases * config.group.size
    return config.clips.num_per_update * (2 if config.method == "dpo" else 1)


def work_of_update(config: PolicyConfig, num_references: int) -> UpdateWork:
    """Count the work of an update; the largest number of references counts for all cases.

    A contrastive reward reads each clip with its references and once more for each of its people (`reward.contrast`).
    """
    steps, grpo = config.rollout.window.size, config.method == "grpo"
    samples = samples_per_update(config)
    sets = 1 + (num_references if config.reward.contrast and num_references > 1 else 0)
    return UpdateWork(
        samples=samples,
        rollout_forwards=round(samples * rollout_forwards(config)),
        replayed_steps=samples * steps * config.loss.num_passes,
        reference_steps=round(samples * reference_forwards(config)),
        scored_sets=samples * sets if grpo else 0,
    )


@dataclass(frozen=True)
class SampleCost:
    """TFLOP of the transformer for one training sample, by what they are spent on."""

    rollout: float
    replay: float
    reference: float

    @property
    def total(self) -> float:
        return self.rollout + self.replay + self.reference


def rollout_forwards(config: PolicyConfig) -> float:
    """Count the forwards without gradient of one sample: the steps, with forward credit one more per noise level, and with
    `advantage.hold` its share of the base's sample of the group. Stored clips need none."""
    if config.method != "grpo":
        return 0.0
    steps, levels = config.rollout.num_steps, config.rollout.window.size if config.loss.credit == "forward" else 0
    return steps + levels + (steps / config.group.size if config.advantage.hold else 0)


def reference_forwards(config: PolicyConfig) -> int:
    """Count the forwards of the reference policy for one sample: of the KL, and two a pair with `clips.guidance`.

    DPO asks the reference about every pair anyway; its KL costs nothing more.
    """
    steps = config.rollout.window.size
    if config.method == "dpo":
        return steps
    of_kl = (1 if config.kl.steps == "first" else steps) if config.kl.weight else 0
    return of_kl + (2 * steps if config.clips.guidance else 0)


def sample_cost(
    config: PolicyConfig, forward_tflop: float, num_branches: int, *, recomputed: float = 1.0
) -> SampleCost:
    """Count one sample; num_branches: guidance branches of the base (used unless guidance is off); recomputed: what share of a
    forward is computed again for the backward."""
    mode, steps = config.rollout.guidance.mode, config.rollout.window.size
    branches = 1 if mode == "none" else num_branches
    with_gradient = 1 if mode == "detach-uncond" else branches
    replay = REPLAY_FORWARDS - 1 + recomputed
    replay += WEIGHT_FORWARDS if config.train == "full" else 0.0
    per_step = with_gradient * replay + (branches - with_gradient)
    return SampleCost(
        rollout=rollout_forwards(config) * branches * forward_tflop,
        replay=config.loss.num_passes * steps * per_step * forward_tflop,
        reference=config.loss.num_passes * reference_forwards(config) * branches * forward_tflop,
    )


RESERVED_SHARE = 0.06
"""Of a GPU's memory: not simulated, not measured by us."""


@dataclass(frozen=True)
class Machine:
    """What one GPU gives: matrix-product speed reached in practice, memory, and speed of the links between ranks."""

    tflops: float
    memory_gib: float
    link_gb_s: float

    @property
    def usable_gib(self) -> float:
        """Give what is left of the memory for tensors: the driver, libraries and fragmentation take the rest."""
        return self.memory_gib * (1 - RESERVED_SHARE)


@dataclass(frozen=True)
class UpdatePlan:
    """Prediction for one update on `gpus` ranks."""

    gpus: int
    zero: int
    micro_batch: int
    compute_s: float
    sync_s: float
    traffic_gib: float
    memory_gib: float
    fits: bool

    @property
    def seconds(self) -> float:
        return self.compute_s + self.sync_s


@dataclass(frozen=True)
class Load:
    """What is trained: sizes of the base and of what is trained, and a sample's cost."""

    sample_tflop: float
    base_gib: float
    base_parameters: int
    base_gib_extra: (
        float  # beside it: VAE, reward model and, when all weights are trained, their average and the reference
    )
    trained_parameters: int
    activation_gib: float  # of one replayed step, all branches with gradient
    rollout_gib: float  # of one denoising step of a rollout batch, or of the decoder where that takes more
    start_gib: float  # before training: text encoder and VAE at work, the transformer not read yet
    num_forwards_rollout: float  # of one rank: each gathers the base under ZeRO 3 without `engine.whole_rollout`
    num_pairs: int  # stored steps of all ranks


def plan(load: Load, config: PolicyConfig, machine: Machine, gpus: int, zero: int, micro_batch: int) -> UpdatePlan:
    """Predict one update.

    seconds = samples / gpus * TFLOP / speed + traffic / link. Memory = base (its share under ZeRO 3, plus one whole copy
    during the rollout when `engine.whole_rollout`; none beside them when the base's weights are what is trained) + what is
    trained (weights, gradients and AdamW's two moments, 16 bytes a parameter, the parts that the ZeRO stage divides divided) + the
    larger of micro_batch x activations and of the rollout; or the start, where that takes more. Traffic: `rank_traffic`.
    """
    samples = samples_per_update(config)
    share = (gpus - 1) / gpus
    trained_gib = load.trained_parameters * 4 / 2**30
    per_rank = {0: (4, 0), 1: (2, 2), 2: (1, 3), 3: (0, 4)}[zero]
    trained_state = trained_gib * (per_rank[0] + per_rank[1] / gpus)
    base = load.base_gib if config.train == "lora" else 0.0
    if zero == 3 and gpus > 1:
        base = load.base_gib if config.engine.whole_rollout else base / gpus
    micro_batches = math.ceil(load.num_pairs / gpus / micro_batch)
    traffic = share * rank_traffic(load, config, zero, micro_batches)
    at_work = max(micro_batch * load.activation_gib, load.rollout_gib)
    memory = max(base + load.base_gib_extra + trained_state + at_work, load.start_gib)
    return UpdatePlan(
        gpus=gpus,
        zero=zero,
        micro_batch=micro_batch,
        compute_s=samples / gpus * load.sample_tflop / machine.tflops,
        sync_s=traffic * 2**30 / 1e9 / machine.link_gb_s if gpus > 1 else 0.0,
        traffic_gib=traffic,
        memory_gib=memory,
        fits=memory <= machine.usable_gib,
    )


def rank_traffic(load: Load, config: PolicyConfig, zero: int, micro_batches: int) -> float:
    """Give the GiB of an update that a rank of infinitely many would move; of G ranks it moves (G - 1) / G of that.

    With A what is trained, B the base: stage 0 sums gradients once (2 A); stage 1 then gathers the weights (3 A); stage 2
    sums them every micro-batch (2 A m + A). Stage 3 scatters gradients every micro-batch (A m) and gathers weights for
    it, for its backward where they are let go in between and for the recomputation of it, for the rollout, for the
    average and once for DeepSpeed's own sake. Counted in every collective by `tests/bench/test_forecast.py`.
    """
    trained = load.trained_parameters * 4 / 2**30
    if zero < 3:
        return trained * {0: SUM_TRAFFIC, 1: SUM_TRAFFIC + 1, 2: SUM_TRAFFIC * micro_batches + 1}[zero]
    keeps = load.base_parameters <= LIVE_PARAMETERS
    gathers: float = (1 if keeps else 2 if config.engine.recompute == "off" else 3) * micro_batches + 1
    gathers += 1 if config.engine.whole_rollout else load.num_forwards_rollout
    return trained * (micro_batches + bool(config.ema.decay)) + gathers * load.base_gib


def best_plan(load: Load, config: PolicyConfig, machine: Machine, gpus: int) -> UpdatePlan:
    """Name the fastest ZeRO stage with the largest micro-batch (a power of two) that fits; the smallest need if none does."""
    sizes = [2**power for power in range(8) if 2**power <= max(1, load.num_pairs // gpus)]
    stages = range(1 if config.engine.base_weights in QUANTISED else 4)  # DeepSpeed takes no quantised weights
    plans = [plan(load, config, machine, gpus, zero, size) for zero in stages for size in sizes]
    fitting = [one for one in plans if one.fits]
    if not fitting:
        return min(plans, key=lambda one: one.memory_gib)
    fastest = min(one.seconds for one in fitting)
    near = [one for one in fitting if one.seconds <= 1.01 * fastest]
    return max(near, key=lambda one: (-one.zero, one.micro_batch))

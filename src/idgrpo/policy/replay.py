"""Pass stored steps through the policy again, with gradient: losses, KL, the on-policy self-check, what the metrics need."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from idgrpo.bases.contract import Base, ConditionBatch, Guidance
from idgrpo.errors import IdgrpoError
from idgrpo.flow.laws import log_prob
from idgrpo.policy.config import DpoConfig, KLConfig, PolicyLossConfig
from idgrpo.policy.forward import matching_error
from idgrpo.policy.loss import LossInputs, LossTerms, dpo_terms
from idgrpo.policy.rollout import Trajectory

CAUSES = (
    "rollout and replay must use the same dtype (latents float32), the same schedule and guidance, and a velocity that "
    "does not depend on which samples share a batch; a merged adapter (rollout.merged) is exact in float32 only"
)


@dataclass(frozen=True)
class Pairs:
    """(stored step, sample) pairs of one trajectory, stacked: the rows of one replay forward."""

    x: Tensor  # [pair, channel, frame, height, width]
    x_next: Tensor
    old_mean: (
        Tensor | None
    )  # None with old_log_prob: no policy drew these clips, the policy itself stands for the old one
    old_log_prob: Tensor | None  # [pair]
    sigma: Tensor  # float64 [pair]
    sigma_next: Tensor
    batch: ConditionBatch
    advantage: Tensor  # [pair]
    weight: Tensor  # [pair] step weights
    steps: list[int]  # index of the denoising step of each pair
    with_kl: list[int]  # rows that enter the KL; on the host: to look at a device's numbers is to wait for it
    kl_share: float  # steps of a sample that each row of the KL stands for
    rival: ConditionBatch | None = None  # the same rows, asked for one person in everybody's place (`apart`)
    rival_weight: float = 0.0
    clip_share: float = 1.0
    labels: Tensor | None = None  # [pair / 2] of preferences: rows 2 i and 2 i + 1 are their clips a and b
    is_filler: bool = False

    def of_kl(self) -> "Pairs":
        """Give the rows that enter the KL, with what a step of them needs: the reference is not run on the others."""
        rows = self.kl_rows
        if isinstance(rows, slice):
            return self
        return replace(
            self,
            x=self.x[rows],
            sigma=self.sigma[rows],
            sigma_next=self.sigma_next[rows],
            batch=self.batch.select(rows),
        )

    @property
    def kl_rows(self) -> slice | list[int]:
        """An index of the rows that enter the KL; all of them as a slice, which copies nothing."""
        return slice(None) if len(self.with_kl) == len(self.x) else self.with_kl

    def as_filler(self) -> "Pairs":
        """Give the same forwards (also of the reference: ZeRO 3 counts them) and backward with a loss of exactly 0."""
        return replace(self, is_filler=True)


MicroBatch = Callable[[], Pairs]
"""Gathers the rows of a micro-batch when it is replayed: copies of all pairs of an update would take gigabytes."""


@dataclass(frozen=True)
class UpdateData:
    """What an update learns from: this rank's micro-batches and what is known of all ranks' together."""

    batches: Sequence[MicroBatch]
    spare: MicroBatch  # what a rank with fewer micro-batches repeats as a filler
    total_pairs: int  # of all ranks; 0: no step
    num_samples: int  # of all ranks
    figures: dict[str, float | str]
    rolled_out: bool = True  # by the policy itself: the replay must reproduce it
    idle: str = ""  # why there may be no pairs


@dataclass
class ReplayFigures:
    """What a replay saw, per pair; lists of tensors, concatenated once at the end."""

    log_ratio: list[Tensor] = field(default_factory=list)
    matching: list[Tensor] = field(default_factory=list)  # of stored clips
    shift: list[Tensor] = field(default_factory=list)
    kl: list[Tensor] = field(default_factory=list)
    loss: list[Tensor] = field(default_factory=list)
    clipped_high: list[Tensor] = field(default_factory=list)
    clipped_low: list[Tensor] = field(default_factory=list)
    lead: list[Tensor] = field(default_factory=list)  # of preferences, [pair / 2]
    better: list[Tensor] = field(default_factory=list)
    worse: list[Tensor] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def note(self, **figures: Tensor) -> None:
        """Append figures of a micro-batch, without their graph."""
        for name, values in figures.items():
            getattr(self, name).append(values.detach())

    def on_cpu(self) -> "ReplayFigures":
        """Copy the tensors off the device: what ranks gather is pickled, and a pickled tensor comes back on its device."""
        moved = {name: [part.cpu() for part in parts] for name, parts in vars(self).items() if name != "steps"}
        return ReplayFigures(**moved, steps=self.steps)


def pair_batches(
    trajectory: Trajectory,
    advantages: Tensor,
    kept: Tensor,
    *,
    micro_batch: int,
    step_weights: dict[int, float],
    kl_steps: str,
) -> list[MicroBatch]:
    """Cut the kept samples' stored steps into micro-batches; several steps of a sample share one forward.

    advantages float [sample], kept bool [sample], both in the order of the trajectory's rows.
    """
    chosen = [(place, sample) for sample in kept.nonzero()[:, 0].tolist() for place in range(len(trajectory.stored))]
    return [
        partial(_gathered, trajectory, advantages, chosen[start : start + micro_batch], step_weights, kl_steps)
        for start in range(0, len(chosen), micro_batch)
    ]


def _gathered(
    trajectory: Trajectory,
    advantages: Tensor,
    chosen: list[tuple[int, int]],
    step_weights: dict[int, float],
    kl_steps: str,
) -> Pairs:
    """Stack the rows of a micro-batch, each a (place among the stored steps, sample)."""
    stored, device = trajectory.stored, trajectory.latents.device
    places, samples = [place for place, _ in chosen], [sample for _, sample in chosen]

    def pick(name: str) -> Tensor:
        return torch.stack([getattr(stored[place], name)[sample] for place, sample in chosen])

    def numbers(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)

    return Pairs(
        x=pick("x"),
        x_next=pick("x_next"),
        old_mean=pick("mean"),
        old_log_prob=pick("log_prob"),
        sigma=numbers([stored[place].sigma for place in places]),
        sigma_next=numbers([stored[place].sigma_next for place in places]),
        batch=trajectory.batch.select(samples),
        advantage=advantages[samples].to(device),
        weight=numbers([step_weights[stored[place].index] for place in places]).float(),
        steps=[stored[place].index for place in places],
        with_kl=[row for row, place in enumerate(places) if kl_steps == "all" or place == 0],
        # With `first`, one step stands for all stored steps of its sample: the weight keeps its meaning, however
        # the pairs are cut into micro-batches.
        kl_share=float(len(stored)) if kl_steps == "first" else 1.0,
    )


def _keep(anchor: Callable[[MicroBatch], object], gather: MicroBatch, mean: Tensor, density: Tensor) -> None:
    """Hand on a micro-batch whose old policy is what this pass computed."""
    anchor(lambda: replace(gather(), old_mean=mean, old_log_prob=density))


class Replay:
    """Replays micro-batches and hands each one's share of the loss to `backward`.

    step: (x, velocity, sigma, sigma_next) -> (mean, std), the same function that the stored pairs were made with.
    """

    def __init__(
        self,
        base: Base,
        step: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
        guidance: Guidance,
        loss: PolicyLossConfig,
        kl: KLConfig,
        loss_function: Callable[[LossInputs], LossTerms],
        reference: Callable[[], AbstractContextManager[None]],
        advantage_clamp: float = 5.0,
        dpo: DpoConfig = DpoConfig(),
    ):
        self.advantage_clamp, self.dpo = advantage_clamp, dpo
        self.base, self.step, self.guidance = base, step, guidance
        self.loss, self.kl, self.loss_function, self.reference = loss, kl, loss_function, reference

    def run(
        self,
        batches: Sequence[MicroBatch],
        total_pairs: int,
        backward: Callable[[Tensor, bool], None],
        anchor: Callable[[MicroBatch], object] | None = None,
    ) -> ReplayFigures:
        """Replay all micro-batches; each loss is a share of the mean over `total_pairs` (of all ranks).

        backward is told which micro-batch is the last. Fillers keep ranks in step and leave no figures. anchor: given in the
        first pass where a rollout's batches round otherwise than the replay's; what the replay computes is then the old policy,
        and `anchor` receives each micro-batch with it, for the passes that follow. The figures still tell the distance to the
        rollout.
        """
        figures = ReplayFigures()
        for number, gather in enumerate(batches):
            pairs = gather()
            if pairs.is_filler:
                share = 0.0 * self.loss_of(
                    pairs, ReplayFigures(), None if anchor is None else lambda mean, density: None
                )
                if anchor is not None:
                    anchor(gather)
            else:
                keep = None if anchor is None else partial(_keep, anchor, gather)
                share = self.loss_of(pairs, figures, keep) / total_pairs
            backward(share, number == len(batches) - 1)
        return figures

    def loss_of(
        self, pairs: Pairs, figures: ReplayFigures, keep: Callable[[Tensor, Tensor], object] | None = None
    ) -> Tensor:
        """Give the summed loss of a micro-batch and note its figures; keep: takes mean and density of an anchored pass."""
        mask = self.base.video_mask(pairs.batch)
        reference_mean = self._reference_mean(pairs)
        target = self._target(pairs)
        mean, std = self._step(pairs)
        density = log_prob(target, mean, std, mask)
        if pairs.old_log_prob is None:
            figures.matching.append(matching_error(density.detach(), std.flatten()))
        if pairs.labels is None:
            loss = self._of_samples(pairs, density, mean, std, mask, figures, keep)
        else:
            assert reference_mean is not None, "a preference is learnt against the reference"
            terms = dpo_terms(gained_density(target, mean, reference_mean, std, mask), pairs.labels, self.dpo)
            loss = terms.loss.sum()
            figures.note(loss=terms.loss, lead=terms.lead, better=terms.better, worse=terms.worse)
        if reference_mean is not None and self.kl.weight:
            near = pairs.kl_rows
            there = reference_mean if pairs.labels is None else reference_mean[near]
            distance = gaussian_kl(mean[near], there, std[near], mask[near])
            loss = loss + self.kl.weight * pairs.kl_share * distance.sum()
            figures.note(kl=distance)
        return loss

    def _of_samples(
        self,
        pairs: Pairs,
        density: Tensor,
        mean: Tensor,
        std: Tensor,
        mask: Tensor,
        figures: ReplayFigures,
        keep: Callable[[Tensor, Tensor], object] | None,
    ) -> Tensor:
        """Give the summed policy loss of rows that each have an advantage of their own."""
        # Where nothing was rolled out the ratio is 1 by definition, and the gradient that of the log density.
        drawn_density = density.detach() if pairs.old_log_prob is None else pairs.old_log_prob
        drawn_kl = gaussian_kl(mean, mean.detach() if pairs.old_mean is None else pairs.old_mean, std, mask)
        old_density, shift_kl = drawn_density, drawn_kl
        if keep is not None:
            old_density, shift_kl = density.detach(), gaussian_kl(mean, mean.detach(), std, mask)
            keep(mean.detach(), old_density)
        terms = self.loss_function(
            LossInputs(
                density,
                old_density,
                pairs.advantage,
                shift_kl,
                std.flatten(),
                self.loss.clip,
                self.loss.kl_limit,
                self.loss.beta,
                self.advantage_clamp,
            )
        )
        figures.note(
            log_ratio=density - drawn_density,
            shift=(2 * drawn_kl.detach()).sqrt(),
            loss=terms.loss,
            clipped_high=terms.clipped_high,
            clipped_low=terms.clipped_low,
        )
        figures.steps += pairs.steps
        return (terms.loss * pairs.weight).sum()

    def _target(self, pairs: Pairs) -> Tensor:
        """Give what the density is taken of: the next state, for stored clips moved by what tells their people apart."""
        if pairs.rival is None:
            return pairs.x_next
        with self.reference(), torch.no_grad():
            own, _ = self._step(pairs)
            doubled, _ = self._step(replace(pairs, batch=pairs.rival))
        return apart(pairs.x_next, own, doubled, pairs.rival_weight, pairs.clip_share)

    def _step(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        velocity = self.base.velocity(pairs.x, pairs.sigma, pairs.batch, self.guidance)
        return self.step(pairs.x, velocity, pairs.sigma, pairs.sigma_next)

    def _reference_mean(self, pairs: Pairs) -> Tensor | None:
        """Run the reference policy before the policy's own forward: it may swap weights, which a graph must not see."""
        if pairs.labels is None and (self.kl.weight == 0 or not pairs.with_kl):
            return None
        with self.reference(), torch.no_grad():
            mean, _ = self._step(pairs if pairs.labels is not None else pairs.of_kl())
        return mean


def apart(clean: Tensor, own: Tensor, doubled: Tensor, weight: float, share: float = 1.0) -> Tensor:
    """Compute s x0 + (1 - s) x0(references) + w (x0(references) - x0(one person standing for all)), s the clip's share.

    own, doubled: predictions of the clean latent from the same noised clip. The clip is moved along what tells its people
    apart. As a target it is guidance distilled (arXiv 2210.03142) whose negative branch shows one person in everybody's
    place; in velocities s u + (1 - s) v(c) + w (v(c) - v(c_i)).
    """
    return share * clean + (1 - share) * own + weight * (own - doubled)


def gained_density(target: Tensor, mean: Tensor, reference_mean: Tensor, std: Tensor, mask: Tensor | None) -> Tensor:
    """Compute log N(target; mean, std) - log N(target; reference_mean, std), averaged over elements: [batch].

    As one product, (r - m) (r + m - 2 t) / (2 std^2): near the reference the difference of two densities is mostly rounding.
    """
    return masked_mean((reference_mean - mean) * (reference_mean + mean - 2 * target) / (2 * std.square()), mask)


def gaussian_kl(mean: Tensor, reference_mean: Tensor, std: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute KL(N(mean, std) || N(reference_mean, std)) per element, averaged: mean (mu - mu_ref)^2 / (2 std^2).

    mean: [batch, channel, frame, height, width]; std broadcasts and includes sqrt(-dt); mask [batch, 1, frame, 1, 1] holds
    1 on video frames. Returns [batch]. The gradient flows through `mean`: a KL under no_grad punishes nothing.
    """
    squared = (mean - reference_mean).square() / (2 * std.square())
    return masked_mean(squared, mask)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Average [batch, ...] over all axes but the first, where the mask (broadcast) is 1."""
    axes = tuple(range(1, values.dim()))
    if mask is None:
        return values.mean(axes)
    mask = mask.to(values.dtype).expand_as(values)
    return (values * mask).sum(axes) / mask.sum(axes).clamp(min=1)


def tolerances(config: PolicyLossConfig, dtype: torch.dtype, amplification: float = 1.0) -> tuple[float, float]:
    """Give (ratio, mean) tolerances: the configured ones, or what the base's arithmetic allows.

    In float32 only the order of sums differs between a rollout batch and a replay batch (measured below 1e-6). In bf16 a
    velocity rounds by batch geometry, and guidance multiplies the difference by the sum of its branches' weights: one ulp
    moved a log ratio by up to 1.6e-2 at the last steps of the paper's recipe (sum 8). Such a run is anchored (`Replay.run`), so
    that rounding enters no ratio, and the check looks for mistakes only.
    """
    exact = dtype == torch.float32
    guided = 5e-4 * amplification**2 if amplification > 1 else 2e-4
    ratio = config.ratio_tolerance or (1e-5 if exact else guided)
    mean = config.mean_tolerance or (1e-3 if exact else 5e-2 * amplification)
    return ratio, mean


def check_on_policy(figures: ReplayFigures, ratio_tolerance: float, mean_tolerance: float) -> tuple[float, float]:
    """Give the largest |log ratio| and the largest rms shift of the mean; raise IdgrpoError beyond the tolerances.

    The shift is measured in standard deviations of the step. It catches what the *mean* log density hides: rounding
    latents to bf16 shifts the mean by far more than it moves the average density.
    """
    log_ratio = torch.cat(figures.log_ratio).abs()
    shift = torch.cat(figures.shift)
    worst_ratio, worst_shift = float(log_ratio.max()), float(shift.max())
    if worst_ratio <= ratio_tolerance and worst_shift <= mean_tolerance:
        return worst_ratio, worst_shift
    place = int(log_ratio.argmax()) if worst_ratio > ratio_tolerance else int(shift.argmax())
    raise IdgrpoError(
        f"replay does not reproduce the rollout before the first update, at denoising step {figures.steps[place]}: "
        f"largest |log ratio| {worst_ratio:.2e} (tolerance {ratio_tolerance:.0e}), "
        f"largest shift of the mean {worst_shift:.2e} std (tolerance {mean_tolerance:.0e})",
        fix=CAUSES,
    )

"""The one trainer: an update takes pairs from the method's source, replays them with gradient, and steps."""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch

from idgrpo.bases.contract import Base, BaseEntry, Guidance
from idgrpo.bases.guidance import amplification
from idgrpo.bases.lora import reference_pass
from idgrpo.errors import IdgrpoError, UsageError
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.dpo import PairBook, PairSource
from idgrpo.policy.figures import PhaseTimer, matching_figures, replay_figures
from idgrpo.policy.forward import forward_step
from idgrpo.policy.groups import CaseBook
from idgrpo.policy.grpo import RolloutSource
from idgrpo.policy.loss import load_loss
from idgrpo.policy.replay import MicroBatch, Pairs, Replay, ReplayFigures, UpdateData, check_on_policy, tolerances
from idgrpo.policy.schedule import Schedule
from idgrpo.policy.scoring import RewardScorer
from idgrpo.policy.sft import ClipSource
from idgrpo.policy.stored import ClipBook
from idgrpo.policy.weights import Average, Weights, swapped, trained_weights
from idgrpo.run.engine import Engine

log = logging.getLogger(__name__)


class Trajectories(Protocol):
    """Where the pairs of an update come from; beside the weights it may have a state of its own."""

    def data(self, number: int, timer: PhaseTimer, stop_requested: Callable[[], bool]) -> UpdateData: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...
    def preview(self, completed: int) -> None: ...


class Trainer:
    """Holds what changes between updates (weights, average, optimizer, counters) and makes one update at a time."""

    def __init__(
        self,
        base: Base,
        book: CaseBook | ClipBook,
        scorer: RewardScorer | None,
        config: PolicyConfig,
        engine: Engine,
        *,
        start: Weights,
        folder: Path,
    ):
        """Prepare; book: cases (GRPO, which needs a scorer), stored clips (SFT) or preferences (DPO); folder: for previews."""
        if config.rollout.merged and config.method == "grpo" and base.dtype != torch.float32:
            raise UsageError(
                f"rollout.merged needs a float32 base, this one is {base.dtype}: rounding would set rollout and replay apart",
                fix="--set rollout.merged=false",
            )
        self.base, self.config, self.engine, self.world = base, config, engine, engine.world
        self.weights = trained_weights(base.transformer)
        self.average = Average(start, config.ema.decay)
        self.old = Average(start, config.rollout.decay) if config.rollout.decay else None  # draws the rollouts
        self.start = start
        self.schedule = Schedule.from_config(config.rollout)
        self.guidance = guidance_of(base.entry, config)
        self.replay = Replay(
            base,
            forward_step if config.credits_finished_samples else self.schedule.step,
            self.guidance,
            config.loss,
            config.kl,
            load_loss(config.loss.name),
            self._reference,
            config.advantage.clamp,
            config.dpo,
        )
        self.source: Trajectories
        if isinstance(book, PairBook):
            self.source = PairSource(base, book, config, engine)
        elif isinstance(book, ClipBook):
            self.source = ClipSource(base, book, config, engine)
        else:
            assert scorer is not None, "GRPO scores what it draws"
            self.source = RolloutSource(
                base, book, scorer, config, engine, guidance=self.guidance, reference=self._reference, folder=folder
            )
        self.completed = 0
        self.skipped = 0
        self.checked = False
        self.tell_phase: Callable[[str], None] = lambda name: None

    def update(self, stop_requested: Callable[[], bool] = lambda: False) -> dict[str, float | str]:
        """Make one update and give its figures; nothing of the trainer changes before the rewards are known.

        Raises StoppedError when asked to stop or when too few rewards came back, IdgrpoError on non-finite numbers or when
        the on-policy self-check fails.
        """
        timer, config, number = PhaseTimer(self.tell_phase), self.config, self.completed
        with nullcontext() if self.old is None else swapped(self.weights, self.old.values):
            data = self.source.data(number, timer, stop_requested)
        with timer.phase("update"):
            figures = data.figures | self._train(data)
        self.completed += 1
        every = config.preview.every
        if every and self.completed % every == 0 and self.world.is_main:
            with timer.phase("preview"):
                self.source.preview(self.completed)
        return figures | timer.figures(data.num_samples) | {
            "skipped_steps": float(self.skipped),
            "lr": config.optimizer.rate(number, config.num_updates),
            "adam_eps": config.optimizer.eps,
            "passes": float(config.loss.num_passes),
        } | ({"rollout_decay": config.rollout.decay} if self.old is not None else {})  # fmt: skip

    def published(self) -> AbstractContextManager[None]:
        """Put the weights that are evaluated and published in place: the average, if there is one."""
        if self.config.ema.decay == 0:
            return nullcontext()
        return swapped(self.weights, self.average.values)

    def _train(self, data: UpdateData) -> dict[str, float]:
        """Replay the pairs and step, `num_passes` times; whether there are any is the same on all ranks."""
        if data.total_pairs == 0:
            self.skipped += 1
            log.warning("update %d: %s; no step", self.completed + 1, data.idle)
            return {"grad_norm": 0.0, "grad_rms": 0.0}
        batches = self._evened(data)
        first: list[ReplayFigures] = []
        is_anchored = data.rolled_out and self.base.dtype != torch.float32 and self.old is None
        # Where no pass follows nothing is kept: the anchors of an update are as large as its latents.
        anchored: deque[MicroBatch] = deque(maxlen=None if self.config.loss.num_passes > 1 else 0)
        for number in range(self.config.loss.num_passes):
            anchor = anchored.append if is_anchored and number == 0 else None
            figures = self.replay.run(batches, data.total_pairs, self.engine.backward, anchor)
            if number == 0:
                batches = list(anchored) or batches
                first = self.world.gather(figures.on_cpu())
                if data.rolled_out:
                    self._check(first)
            report = self.engine.step(self.config.optimizer.rate(self.completed, self.config.num_updates))
            if not report.applied:
                raise IdgrpoError(
                    f"gradient of update {self.completed + 1} is not finite (norm {report.grad_norm}); the optimizer was not "
                    "touched and the last checkpoint is good",
                    fix="lower optimizer.lr, or look at metrics.jsonl for the first odd number",
                )
        with self.engine.gathered():
            for average in (self.average, *([] if self.old is None else [self.old])):
                average.update(self.weights)
        seen = self.world.gather(figures.on_cpu()) if self.config.loss.num_passes > 1 else first
        described = replay_figures(seen) if data.rolled_out else matching_figures(seen)
        if is_anchored:
            described["ratio_tolerance"], _ = self._tolerances
        return described | {"grad_norm": report.grad_norm, "grad_rms": report.grad_rms}

    def _evened(self, data: UpdateData) -> Sequence[MicroBatch]:
        """Give this rank's micro-batches; fillers give all ranks the same number where the engine needs it."""
        if not self.engine.needs_equal_backwards:
            return data.batches
        most = max(self.world.gather(len(data.batches)))

        def filler() -> Pairs:
            return data.spare().as_filler()

        return [*data.batches, *([filler] * (most - len(data.batches)))]

    def _check(self, ranks: Sequence[ReplayFigures]) -> None:
        """Run the on-policy self-check once per process, over the pairs of all ranks."""
        if self.checked or (self.old is not None and self.completed):  # later the policy has left the one that draws
            return
        merged_figures = ReplayFigures()
        for rank in ranks:
            merged_figures.log_ratio += rank.log_ratio
            merged_figures.shift += rank.shift
            merged_figures.steps += rank.steps
        ratio, shift = check_on_policy(merged_figures, *self._tolerances)
        log.info("on-policy self-check passed: |log ratio| <= %.1e, shift of the mean <= %.1e std", ratio, shift)
        self.checked = True

    @property
    def _tolerances(self) -> tuple[float, float]:
        amplified = amplification(self.base.entry.family, self.guidance)
        return tolerances(self.config.loss, self.base.dtype, amplified)

    def _reference(self) -> AbstractContextManager[None]:
        if self.config.swaps_reference:
            return swapped(self.weights, self.start)
        return reference_pass(self.base)


def guidance_of(entry: BaseEntry, config: PolicyConfig) -> Guidance:
    """Give the guidance of rollout and replay; scales left out are the base's own."""
    setting, own = config.rollout.guidance, entry.guidance
    if setting.mode == "none":
        return Guidance(mode="none")
    scale = own.scale if setting.scale is None else setting.scale
    image_scale = own.image_scale if setting.image_scale is None else setting.image_scale
    return Guidance(scale, image_scale, setting.mode)

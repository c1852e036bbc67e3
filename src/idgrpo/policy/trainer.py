"""The one trainer: an update is groups -> rollout -> reward -> advantages -> replay -> step."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.bases.contract import Base, BaseEntry, Condition, Guidance
from idgrpo.bases.lora import merged, reference_pass
from idgrpo.errors import IdgrpoError, StoppedError, UsageError
from idgrpo.policy.advantage import Advantages, combine_rewards, group_advantages, win_rates
from idgrpo.policy.casebook import CaseBook
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.controls import Drift, load_control, without
from idgrpo.policy.figures import PhaseTimer, advantage_figures, replay_figures, reward_figures
from idgrpo.policy.forward import forward_step, noised_again
from idgrpo.policy.groups import groups_of_update, share_of_rank
from idgrpo.policy.loss import load_loss
from idgrpo.policy.preview import write_previews
from idgrpo.policy.replay import Pairs, Replay, ReplayFigures, pair_batches
from idgrpo.policy.rollout import Draws, Row, Trajectory, chunks_of, roll_out, videos_of
from idgrpo.policy.schedule import Schedule
from idgrpo.policy.scoring import Scorer
from idgrpo.policy.selfcheck import check_on_policy
from idgrpo.policy.weights import Average, Weights, swapped, trained_weights
from idgrpo.policy.window import window_steps
from idgrpo.run.engine import Engine

log = logging.getLogger(__name__)


class Trainer:
    """Holds what changes between updates (weights, average, optimizer, counters) and makes one update at a time."""

    def __init__(
        self,
        base: Base,
        book: CaseBook,
        scorer: Scorer,
        config: PolicyConfig,
        engine: Engine,
        *,
        start: Weights,
        folder: Path,
    ):
        self.base, self.book, self.scorer, self.config, self.engine = base, book, scorer, config, engine
        self.world, self.folder = engine.world, folder
        # Whole weights have no adapter to switch off: the weights that the run began with stand in for the base.
        self.swaps_reference = config.kl.reference == "start" or config.train == "full"
        if config.engine.zero == 3 and self.swaps_reference and (config.kl.weight or config.advantage.hold):
            raise UsageError(
                "ZeRO 3 keeps no whole trained weights on a rank, and kl.reference=start (with train=full always) swaps them "
                "wherever the reference is asked: in every replay, and for advantage.hold",
                fix="use --set engine.zero=2, or --set kl.weight=0 --set advantage.hold=0",
            )
        if config.engine.zero == 3 and config.kl.steps == "first":
            raise UsageError(
                "ZeRO 3 gathers weights in every forward, so all ranks must make equally many; kl.steps=first does not",
                fix="use --set engine.zero=2, or --set kl.steps=all",
            )
        if config.advantage.hold and not config.engine.whole_rollout:
            raise UsageError(
                "without whole rollouts every forward gathers weights, so all ranks must make equally many; the base's clips of "
                "advantage.hold are not dealt out evenly",
                fix="--set advantage.hold=0",
            )
        if config.rollout.merged and not config.engine.whole_rollout:
            raise UsageError(
                "rollout.merged folds the adapter into whole weights, engine.whole_rollout=false never has them",
                fix="--set rollout.merged=false",
            )
        if config.rollout.merged and base.dtype != torch.float32:
            raise UsageError(
                f"rollout.merged needs a float32 base, this one is {base.dtype}: rounding would set rollout and replay apart",
                fix="--set rollout.merged=false",
            )
        self.weights = trained_weights(base.transformer)
        self.controls = {name: load_control(name) for name in config.advantage.controls}
        self.drift = Drift(config.advantage.controls)
        self.average = Average(start, config.ema.decay)
        self.start = start
        self.schedule = Schedule.from_config(config.rollout)
        self.guidance = guidance_of(base.entry, config)
        window = config.rollout.window
        self.forward = config.loss.credit == "forward"
        # A forward pair answers to the velocity alike at every noise level: there is nothing to equalise.
        rule = "none" if self.forward else config.loss.step_weights
        self.step_weights = self.schedule.step_weights(rule, range(window.first, window.last))
        self.replay = Replay(
            base,
            forward_step if self.forward else self.schedule.step,
            self.guidance,
            config.loss,
            config.kl,
            load_loss(config.loss.name),
            self._reference,
        )
        self.videos: dict[Row, Tensor] = {}
        self.completed = 0
        self.skipped = 0
        self.checked = False

    def update(self, stop_requested: Callable[[], bool] = lambda: False) -> dict[str, float | str]:
        """Make one update and give its figures; nothing of the trainer changes before the rewards are known.

        Raises StoppedError when asked to stop or when too few rewards came back, IdgrpoError on non-finite numbers or when
        the on-policy self-check fails.
        """
        timer, config, number = PhaseTimer(), self.config, self.completed
        groups = groups_of_update(len(self.book), config.group.num_cases, config.seed, number)
        everyones = [
            Row(group.slot, group.case, self.book.cases[group.case].id, member)
            for group in groups
            for member in range(config.group.size)
        ]
        rows = share_of_rank(everyones, self.world.rank, self.world.size)
        window = window_steps(config.rollout.window, config.seed, number)
        with timer.phase("condition"):
            conditions = {row.case: self.book[row.case] for row in rows}
        trajectories, scores = self._samples(rows, conditions, window, timer)
        if self.world.any(stop_requested()):
            raise StoppedError(
                f"stopped after {number} updates, inside update {number + 1}", fix="run again with --resume"
            )
        with timer.phase("reward"):
            values = scores()
        with timer.phase("sync"):  # mostly waiting for the slowest rank's rollout and rewards
            rewards = self._gathered(values)
        total = combine_rewards(rewards, config.reward.weights, config.reward.normalise)
        self._refuse_outage(total)
        if config.advantage.hold:
            with timer.phase("hold"):
                self._follow_drift(rows, conditions, window)
        advantages = self._advantages(total, rows)
        figures: dict[str, float | str] = {**reward_figures(rewards, total), **advantage_figures(advantages)}
        with timer.phase("update"):
            figures |= self._train(rows, trajectories, advantages)
        self.completed += 1
        self._preview(rows, trajectories, total, timer)
        figures |= {f"drift_{name}": value for name, value in self.drift.values.items() if config.advantage.hold}
        return figures | timer.figures(total.numel()) | {
            "window": " ".join(map(str, window)),
            "skipped_steps": float(self.skipped),
            "lr": config.optimizer.rate(number, config.num_updates),
            "adam_eps": config.optimizer.eps,
            "passes": float(config.loss.num_passes),
        }  # fmt: skip

    def published(self) -> AbstractContextManager[None]:
        """Put the weights that are evaluated and published in place: the average, if there is one."""
        if self.config.ema.decay == 0:
            return nullcontext()
        return swapped(self.weights, self.average.values)

    def _roll_out(
        self, rows: list[Row], conditions: dict[int, Condition], window: tuple[int, ...], timer: PhaseTimer
    ) -> Iterator[Trajectory]:
        """Roll out in batches; a batch is handed over before the next one begins."""
        rollout = self.config.rollout
        whole = self.engine.whole() if self.config.engine.whole_rollout else nullcontext()
        with whole, merged(self.base) if rollout.merged else nullcontext():
            chunks = chunks_of(rows, conditions, rollout.batch_size)
            num_own = len(chunks)
            if not self.config.engine.whole_rollout:  # every forward gathers: ranks with fewer batches repeat one
                chunks += chunks[:1] * (max(self.world.gather(num_own)) - num_own)
            for place, chunk in enumerate(chunks):
                with timer.phase("rollout"):
                    trajectory = self._drawn(chunk, conditions, window)
                    if self.forward:
                        levels = {step: float(self.schedule.sigmas[step]) for step in window}
                        trajectory = noised_again(
                            self.base, trajectory, levels, guidance=self.guidance, draws=self._draws()
                        )
                if place < num_own:
                    yield trajectory

    def _drawn(self, rows: list[Row], conditions: dict[int, Condition], window: tuple[int, ...]) -> Trajectory:
        return roll_out(
            self.base,
            rows,
            conditions,
            schedule=self.schedule,
            window=() if self.forward else window,
            guidance=self.guidance,
            draws=self._draws(),
            solver=self.config.rollout.solver,
        )

    def _draws(self) -> Draws:
        return Draws(self.config.seed, self.completed, self.config.rollout.noise)

    def _samples(
        self, rows: list[Row], conditions: dict[int, Condition], window: tuple[int, ...], timer: PhaseTimer
    ) -> tuple[list[Trajectory], Callable[[], dict[str, Tensor]]]:
        """Give trajectories, and a function that gives the rewards of this rank's rows; with `reward.overlap` they are
        being scored already, in a thread of its own, batch by batch."""
        trajectories: list[Trajectory] = []
        self.videos.clear()
        thread = ThreadPoolExecutor(1) if self.config.reward.overlap else None
        pending = []
        for trajectory in self._roll_out(rows, conditions, window, timer):
            trajectories.append(trajectory)
            with timer.phase("decode"):
                self.videos |= dict(zip(trajectory.rows, videos_of(self.base, trajectory), strict=True))
            if thread is not None:
                pending.append((trajectory.rows, thread.submit(self._score_rows, trajectory.rows)))
        if thread is None:
            return trajectories, lambda: self._score_rows(rows)
        thread.shutdown(wait=False)

        def collected() -> dict[str, Tensor]:
            done = [(part, future.result()) for part, future in pending]
            order = torch.tensor([rows.index(row) for part, _ in done for row in part]).argsort()
            return {name: torch.cat([values[name] for _, values in done])[order] for name in done[0][1]}

        return trajectories, collected

    def _score_rows(self, rows: list[Row]) -> dict[str, Tensor]:
        return self.scorer.score(
            [self.videos[row] for row in rows],
            [self.book.references(row.case) for row in rows],
            [self.book.cases[row.case].prompt for row in rows],
        )

    def _gathered(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give rewards [group, sample] of all ranks, on every rank."""
        shape = (self.config.group.num_cases, self.config.group.size)
        ranks = self.world.gather(values)
        return {name: torch.cat([rank[name] for rank in ranks]).reshape(shape) for name in values}

    def _refuse_outage(self, total: Tensor) -> None:
        """Stop on every rank alike when most rewards are missing: training on what is left would bias the groups."""
        valid = float(total.isfinite().double().mean())
        if valid < self.config.reward.min_valid_share:
            raise StoppedError(
                f"only {valid:.0%} of the rewards of update {self.completed + 1} came back after "
                f"{self.config.reward.num_retries} retries; the last checkpoint is complete",
                fix="bring the reward back and run again with --resume",
            )

    def _advantages(self, total: Tensor, rows: list[Row]) -> Advantages:
        setting = self.config.advantage
        advantages = group_advantages(
            win_rates(total) if setting.win_rate else total,
            scale=setting.scale,
            std_floor=setting.std_floor,
            eps=setting.eps,
            clamp=setting.clamp,
        )
        if not self.controls:
            return advantages
        own = {name: self._measured(name, [self.videos[row] for row in rows]) for name in self.controls}
        pulls = [setting.hold * self.drift.values[name] for name in self.controls]
        return without(advantages, list(self._gathered(own).values()), pulls)

    def _measured(self, control: str, videos: Sequence[Tensor]) -> Tensor:
        return torch.tensor([self.controls[control](video) for video in videos], dtype=torch.float64)

    def _follow_drift(self, rows: list[Row], conditions: dict[int, Condition], window: tuple[int, ...]) -> None:
        """Let the reference draw the first clip of each group from the same noise, and see how far the policy's is from it."""
        first = [row for row in rows if row.member == 0]
        videos: dict[Row, Tensor] = {}
        with self.engine.whole(), self._reference():
            for chunk in chunks_of(first, conditions, self.config.rollout.batch_size):
                trajectory = self._drawn(chunk, conditions, window)
                videos |= dict(zip(chunk, videos_of(self.base, trajectory), strict=True))
        ratios = {
            name: (
                self._measured(name, [self.videos[row] for row in first])
                / self._measured(name, [videos[row] for row in first])
            ).log()
            for name in self.controls
        }
        ranks = self.world.gather(ratios)
        self.drift.update({name: torch.cat([rank[name] for rank in ranks]) for name in self.controls})

    def _train(self, rows: list[Row], trajectories: list[Trajectory], advantages: Advantages) -> dict[str, float]:
        """Replay the kept pairs and step, `num_passes` times; the group count that was dropped is the same on all ranks."""
        num_kept = int(advantages.kept.sum())
        if num_kept == 0:
            self.skipped += 1
            log.warning("update %d: no group has any difference in reward; no step", self.completed + 1)
            return {"grad_norm": 0.0, "grad_rms": 0.0}
        batches = self._batches(trajectories, advantages)
        total_pairs = num_kept * len(trajectories[0].stored)
        first: list[ReplayFigures] = []
        for number in range(self.config.loss.num_passes):
            figures = self.replay.run(batches, total_pairs, self.engine.backward)
            if number == 0:
                first = self.world.gather(figures.on_cpu())
                self._check(first)
            report = self.engine.step(self.config.optimizer.rate(self.completed, self.config.num_updates))
            if not report.applied:
                raise IdgrpoError(
                    f"gradient of update {self.completed + 1} is not finite (norm {report.grad_norm}); the optimizer was not "
                    "touched and the last checkpoint is good",
                    fix="lower optimizer.lr, or look at metrics.jsonl for the first odd number",
                )
        with self.engine.gathered():
            self.average.update(self.weights)
        seen = self.world.gather(figures.on_cpu()) if self.config.loss.num_passes > 1 else first
        return replay_figures(seen) | {"grad_norm": report.grad_norm, "grad_rms": report.grad_rms}

    def _batches(self, trajectories: list[Trajectory], advantages: Advantages) -> list[Pairs]:
        """Cut this rank's kept pairs into micro-batches; fillers give all ranks the same number where the engine needs it."""
        batches = self._kept_batches(trajectories, advantages.values, advantages.kept)
        if not self.engine.needs_equal_backwards:
            return batches
        most = max(self.world.gather(len(batches)))
        everything = torch.ones_like(advantages.kept)
        spare = batches[:1] or self._kept_batches(trajectories[:1], advantages.values, everything)[:1]
        return [*batches, *([spare[0].as_filler()] * (most - len(batches)))]

    def _kept_batches(self, trajectories: list[Trajectory], values: Tensor, kept: Tensor) -> list[Pairs]:
        batches: list[Pairs] = []
        for trajectory in trajectories:
            places = ([row.slot for row in trajectory.rows], [row.member for row in trajectory.rows])
            batches += pair_batches(
                trajectory,
                values[places],
                kept[places],
                micro_batch=self.config.loss.micro_batch,
                step_weights=self.step_weights,
                kl_steps=self.config.kl.steps,
            )
        return batches

    def _check(self, ranks: Sequence[ReplayFigures]) -> None:
        """Run the on-policy self-check once per process, over the pairs of all ranks."""
        if self.checked:
            return
        merged_figures = ReplayFigures()
        for rank in ranks:
            merged_figures.log_ratio += rank.log_ratio
            merged_figures.shift += rank.shift
            merged_figures.steps += rank.steps
        ratio, shift = check_on_policy(merged_figures, self.config.loss, self.base.dtype)
        log.info("on-policy self-check passed: |log ratio| <= %.1e, shift of the mean <= %.1e std", ratio, shift)
        self.checked = True

    def _reference(self) -> AbstractContextManager[None]:
        if self.swaps_reference:
            return swapped(self.weights, self.start)
        return reference_pass(self.base)

    def _preview(self, rows: list[Row], trajectories: list[Trajectory], total: Tensor, timer: PhaseTimer) -> None:
        every = self.config.preview.every
        if not every or self.completed % every or not self.world.is_main:
            return
        first = [row for row in rows if row.member == 0][: self.config.preview.num_samples]
        chosen = [(f"{row.case_id}", float(total[row.slot, row.member]), self.videos[row]) for row in first]
        with timer.phase("preview"):
            write_previews(self.folder / f"update-{self.completed:06d}", chosen, self.base.entry.fps)


def guidance_of(entry: BaseEntry, config: PolicyConfig) -> Guidance:
    """Give the guidance of rollout and replay; scales left out are the base's own."""
    setting, own = config.rollout.guidance, entry.guidance
    if setting.mode == "none":
        return Guidance(mode="none")
    scale = own.scale if setting.scale is None else setting.scale
    image_scale = own.image_scale if setting.image_scale is None else setting.image_scale
    return Guidance(scale, image_scale, setting.mode)

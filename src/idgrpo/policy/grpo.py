"""GRPO's source of an update: groups of a case -> rollout -> reward -> advantages -> the pairs that are trained on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.bases.contract import Base, Condition, Guidance
from idgrpo.bases.lora import merged
from idgrpo.errors import StoppedError
from idgrpo.plugins import load
from idgrpo.policy.advantage import (
    Advantages,
    Drift,
    combine_rewards,
    group_advantages,
    load_control,
    win_rates,
    without,
)
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.figures import PhaseTimer, advantage_figures, reward_figures, write_previews
from idgrpo.policy.forward import noised_again
from idgrpo.policy.groups import CaseBook, groups_of_update, share_of_rank
from idgrpo.policy.replay import MicroBatch, UpdateData, pair_batches
from idgrpo.policy.rollout import Draws, SampleRow, Trajectory, chunks_of, roll_out, videos_of
from idgrpo.policy.schedule import Schedule, window_steps
from idgrpo.policy.scoring import RewardScorer
from idgrpo.run.engine import Engine


class RolloutSource:
    """Draws an update's samples with the policy as it is, scores them, and credits them group by group."""

    def __init__(
        self,
        base: Base,
        book: CaseBook,
        scorer: RewardScorer,
        config: PolicyConfig,
        engine: Engine,
        *,
        guidance: Guidance,
        reference: Callable[[], AbstractContextManager[None]],
        folder: Path,
    ):
        self.base, self.book, self.scorer, self.config, self.engine = base, book, scorer, config, engine
        self.world, self.guidance, self.reference, self.folder = engine.world, guidance, reference, folder
        self.schedule = Schedule.from_config(config.rollout)
        self.forward = config.credits_finished_samples
        window = config.rollout.window
        # A forward pair answers to the velocity alike at every noise level: there is nothing to equalise.
        rule = "none" if self.forward else config.loss.step_weights
        self.step_weights = self.schedule.step_weights(rule, range(window.first, window.last))
        self.controls = {name: load_control(name) for name in config.advantage.controls}
        self.drift = Drift(config.advantage.controls)
        decoder = None if config.rollout.decoder is None else load(config.rollout.decoder, "rollout.decoder")
        self.decoded = partial(videos_of, base, decoder=decoder)
        self.videos: dict[SampleRow, Tensor] = {}
        self.number = 0

    def data(self, number: int, timer: PhaseTimer, stop_requested: Callable[[], bool]) -> UpdateData:
        """Give what update `number` learns from; raises StoppedError when asked to stop or too few rewards came back."""
        config, self.number = self.config, number
        groups = groups_of_update(len(self.book), config.group.num_cases, config.seed, number)
        everyones = [
            SampleRow(group.slot, group.case, self.book.cases[group.case].id, member)
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
        # What is shown is what was earned: z-scores of groups have the mean 0.
        earned = combine_rewards(rewards, config.reward.weights)
        total = combine_rewards(rewards, config.reward.weights, config.reward.normalise)
        self._refuse_outage(total)
        if config.advantage.hold:
            with timer.phase("hold"):
                self._follow_drift(rows, conditions, window)
        advantages = self._advantages(total, rows)
        self._seen = (rows, earned)
        figures: dict[str, float | str] = {**reward_figures(rewards, earned), **advantage_figures(advantages)}
        figures |= {f"drift_{name}": value for name, value in self.drift.values.items() if config.advantage.hold}
        figures["window"] = " ".join(map(str, window))
        everything = torch.ones_like(advantages.kept)
        batches = self._batches(trajectories, advantages.values, advantages.kept)
        return UpdateData(
            batches=batches,
            spare=(batches or self._batches(trajectories[:1], advantages.values, everything))[0],
            total_pairs=int(advantages.kept.sum()) * len(trajectories[0].stored),
            num_samples=total.numel(),
            figures=figures,
            idle="no group has any difference in reward",
        )

    def state(self) -> dict[str, dict[str, float]]:
        """Give what a checkpoint must hold beside weights and counters."""
        return {"drift": self.drift.values}

    def restore(self, state: Mapping[str, dict[str, float]]) -> None:
        """Take `state` back from a checkpoint."""
        self.drift.values |= state.get("drift", {})

    def preview(self, completed: int) -> None:
        """Write some of the last update's clips for people to look at; costs no extra sampling."""
        rows, total = self._seen
        first = [row for row in rows if row.member == 0][: self.config.preview.num_samples]
        chosen = [(f"{row.case_id}", float(total[row.slot, row.member]), self.videos[row]) for row in first]
        write_previews(self.folder / f"update-{completed:06d}", chosen, self.base.entry.fps)

    def _roll_out(
        self, rows: list[SampleRow], conditions: dict[int, Condition], window: tuple[int, ...], timer: PhaseTimer
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

    def _drawn(self, rows: list[SampleRow], conditions: dict[int, Condition], window: tuple[int, ...]) -> Trajectory:
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
        return Draws(self.config.seed, self.number, self.config.rollout.noise)

    def _samples(
        self, rows: list[SampleRow], conditions: dict[int, Condition], window: tuple[int, ...], timer: PhaseTimer
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
                self.videos |= dict(zip(trajectory.rows, self.decoded(trajectory), strict=True))
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

    def _score_rows(self, rows: list[SampleRow]) -> dict[str, Tensor]:
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
                f"only {valid:.0%} of the rewards of update {self.number + 1} came back after "
                f"{self.config.reward.num_retries} retries; the last checkpoint is complete",
                fix="bring the reward back and run again with --resume",
            )

    def _advantages(self, total: Tensor, rows: list[SampleRow]) -> Advantages:
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

    def _follow_drift(self, rows: list[SampleRow], conditions: dict[int, Condition], window: tuple[int, ...]) -> None:
        """Let the reference draw the first clip of each group from the same noise, and see how far the policy's is from it."""
        first = [row for row in rows if row.member == 0]
        videos: dict[SampleRow, Tensor] = {}
        with self.engine.whole(), self.reference():
            for chunk in chunks_of(first, conditions, self.config.rollout.batch_size):
                trajectory = self._drawn(chunk, conditions, window)
                videos |= dict(zip(chunk, self.decoded(trajectory), strict=True))
        ratios = {
            name: (
                self._measured(name, [self.videos[row] for row in first])
                / self._measured(name, [videos[row] for row in first])
            ).log()
            for name in self.controls
        }
        ranks = self.world.gather(ratios)
        self.drift.update({name: torch.cat([rank[name] for rank in ranks]) for name in self.controls})

    def _batches(self, trajectories: list[Trajectory], values: Tensor, kept: Tensor) -> list[MicroBatch]:
        """Cut this rank's kept pairs into micro-batches; values and kept [group, sample]."""
        batches: list[MicroBatch] = []
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

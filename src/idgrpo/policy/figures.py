"""Numbers of one update for metrics.jsonl: rewards, advantages, ratios, gradient, seconds per phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from idgrpo.policy.advantage import Advantages
from idgrpo.policy.replay import ReplayFigures


class PhaseTimer:
    """Adds up wall-clock seconds by phase name, from the start of an update."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start, self._cpu = time.perf_counter(), time.process_time()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def figures(self, num_samples: int) -> dict[str, float]:
        """Give the seconds of each phase, samples (of all ranks) a second, and this rank's peak of GPU memory so far if it has one."""
        rows = {f"seconds_{name}": value for name, value in self.seconds.items()}
        rows["samples_per_second"] = num_samples / (time.perf_counter() - self._start)
        rows["cpu_seconds"] = time.process_time() - self._cpu
        if torch.cuda.is_available():
            rows["gpu_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return rows


def reward_figures(rewards: dict[str, Tensor], total: Tensor) -> dict[str, float]:
    """Describe rewards [group, sample], each and combined; `reward_std` is the mean std inside a group."""
    figures: dict[str, float] = {}
    for name, values in {**({} if len(rewards) == 1 else rewards), "reward": total}.items():
        label = name if name == "reward" else f"reward_{name}"
        valid = values.isfinite()
        if not bool(valid.any()):
            continue
        known = values[valid]
        inside = [row[row.isfinite()].std(unbiased=False) for row in values if bool(row.isfinite().any())]
        figures[f"{label}_mean"] = float(known.mean())
        figures[f"{label}_std"] = float(torch.stack(inside).mean())
        figures[f"{label}_min"], figures[f"{label}_max"] = float(known.min()), float(known.max())
    valid = total.isfinite()
    figures["reward_failed_share"] = 1 - float(valid.double().mean())
    figures["group_size_min"], figures["group_size_max"] = float(valid.sum(1).min()), float(valid.sum(1).max())
    return figures


def advantage_figures(advantages: Advantages) -> dict[str, float]:
    """Describe advantages and what was dropped."""
    kept = advantages.kept
    count = max(int(kept.sum()), 1)
    return {
        "advantage_abs_mean": float(advantages.values.abs().sum()) / count,
        "advantage_clamped_share": float(advantages.clamped.sum()) / count,
        "advantage_explained_share": advantages.explained_share,
        "zero_variance_share": float(advantages.zero_variance.double().mean()),
        "groups_dropped": float(advantages.too_small.sum()),
        "samples_trained": float(kept.sum()),
    }


def replay_figures(rows: list[ReplayFigures]) -> dict[str, float]:
    """Describe ratios, clipping, KL and loss over all pairs of all ranks, and the log ratio per denoising step."""
    log_ratio = torch.cat([part.cpu() for row in rows for part in row.log_ratio] or [torch.zeros(1)])
    ratio = log_ratio.exp()

    def mean(name: str) -> float:
        parts = [part.float().cpu() for row in rows for part in getattr(row, name)]
        return float(torch.cat(parts).mean()) if parts else 0.0

    figures = {
        "ratio_mean": float(ratio.mean()),
        "ratio_min": float(ratio.min()),
        "ratio_max": float(ratio.max()),
        "log_ratio_max": float(log_ratio.abs().max()),
        "mean_shift": mean("shift"),
        "clip_share_high": mean("clipped_high"),
        "clip_share_low": mean("clipped_low"),
        "kl": mean("kl"),
        "loss_policy": mean("loss"),
    }
    steps = torch.tensor([step for row in rows for step in row.steps])
    for step in sorted(set(steps.tolist())):
        figures[f"log_ratio_step{step:02d}"] = float(log_ratio[steps == step].abs().max())
    return figures

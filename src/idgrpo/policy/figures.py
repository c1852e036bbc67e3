"""What a run shows: the numbers of an update for metrics.jsonl, its curves as a picture, and clips to look at."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idgrpo.policy.advantage import Advantages
from idgrpo.policy.replay import ReplayFigures
from idgrpo.records.document import parse_json
from idgrpo.run.sinks import RewardedClip
from idgrpo.video.read import read_video
from idgrpo.video.sheet import contact_sheet
from idgrpo.video.write import write_image, write_video

# title -> figures drawn in it; a panel without any of them is left out
PANELS = {
    "reward in training": ("reward_mean",),
    "flow-matching error in training": ("matching_error",),
    "preferences in training": ("preference_loss", "preference_accuracy"),
    "log density gained over the reference": ("gain_better", "gain_worse"),
    "held-out": ("eval_identity", "eval_worst"),
    "KL to the reference": ("kl",),
    "gradient norm": ("grad_norm",),
    "ratio": ("ratio_min", "ratio_mean", "ratio_max"),
    "share of clipped pairs": ("clip_share_high", "clip_share_low"),
}
COLOURS = ("#4477aa", "#ee6677", "#228833")


PHASE_WORDS = {"reward": "score", "update": "replay", "eval": "held-out evaluation"}
"""What people are shown of a phase whose key in metrics.jsonl is another."""


class PhaseTimer:
    """Adds up wall-clock seconds by phase name, from the start of an update; `tell` hears what is under way."""

    def __init__(self, tell: Callable[[str], None] = lambda name: None) -> None:
        self.seconds: dict[str, float] = {}
        self._tell = tell
        self._start, self._cpu = time.perf_counter(), time.process_time()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self._tell(PHASE_WORDS.get(name, name))
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
        figures[f"{label}_failed_share"] = 1 - float(valid.double().mean())
        if not bool(valid.any()):
            continue
        known = values[valid]
        inside = [row[row.isfinite()].std(unbiased=False) for row in values if bool(row.isfinite().any())]
        figures[f"{label}_mean"] = float(known.mean())
        figures[f"{label}_std"] = float(torch.stack(inside).mean())
        figures[f"{label}_min"], figures[f"{label}_max"] = float(known.min()), float(known.max())
    valid = total.isfinite()
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


def matching_figures(rows: list[ReplayFigures]) -> dict[str, float]:
    """Describe the flow-matching error of stored clips, |v - (noise - x0)|^2 averaged over their elements, and the KL;
    of preferences also the loss, the lead of the better clip's implicit score, and what both sides gained."""
    errors = torch.cat([part for row in rows for part in row.matching])
    kl = [part for row in rows for part in row.kl]
    figures = {"matching_error": float(errors.mean()), "kl": float(torch.cat(kl).mean()) if kl else 0.0}
    if not any(row.lead for row in rows):
        return figures
    loss, lead, better, worse = (
        torch.cat([part for row in rows for part in getattr(row, name)]) for name in ("loss", "lead", "better", "worse")
    )
    decided = lead[~lead.isnan()]
    figures["preference_loss"] = float(loss.mean())
    if len(decided):
        figures["preference_accuracy"] = float((decided > 0).double().mean() + (decided == 0).double().mean() / 2)
        figures["preference_lead"] = float(decided.mean())
    return figures | {"gain_better": float(better.mean()), "gain_worse": float(worse.mean())}


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


def draw_curves(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write one PNG: reward with its spread inside groups, held-out identity, KL, gradient norm, ratio and clipping."""
    from matplotlib.figure import Figure

    rows = list(rows)
    known = {title: lines for title, names in PANELS.items() if (lines := _lines(rows, names))}
    num_across = min(len(known), 3) or 1
    num_down = -(-len(known) // num_across) or 1
    figure = Figure(figsize=(4 * num_across, 2.6 * num_down), layout="constrained")
    for place, (title, lines) in enumerate(known.items(), 1):
        axes = figure.add_subplot(num_down, num_across, place)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("update", fontsize=8)
        axes.tick_params(labelsize=8)
        for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
            dotted = "." if len(points) < 20 else None  # few points, and a single one, would not be seen as a line
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, marker=dotted, label=name)
        if "reward_mean" in lines:
            _draw_spread(axes, rows)
        if len(lines) > 1:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _lines(rows: list[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[tuple[int, float]]]:
    """Give (update, value) of each figure that was measured; what was not finite stands in the metrics as text."""
    found = {
        name: [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))] for name in names
    }
    return {name: points for name, points in found.items() if points}


def _draw_spread(axes: Any, rows: list[Mapping[str, Any]]) -> None:
    known = [row for row in rows if all(isinstance(row.get(f"reward_{n}"), (int, float)) for n in ("mean", "std"))]
    low, high = ([row["reward_mean"] + sign * row["reward_std"] for row in known] for sign in (-1, 1))
    axes.fill_between([row["step"] for row in known], low, high, color=COLOURS[0], alpha=0.15, linewidth=0)


def write_previews(folder: Path, videos: list[tuple[str, float, Tensor]], fps: int) -> None:
    """Write (name, reward, uint8 [frame, 3, height, width]) as name.mp4 and the rewards as index.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, video in videos:
        write_video(folder / f"{name}.mp4", video, fps=fps)
    index = [{"video": f"{name}.mp4", "reward": reward} for name, reward, _ in videos]
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def previewed(folder: Path, update: int) -> list[RewardedClip]:
    """List the clips that `write_previews` wrote after an update, with their rewards; none where it wrote none."""
    index = folder / f"update-{update:06d}" / "index.json"
    if not index.is_file():
        return []
    rows = parse_json(index.read_text())
    return [RewardedClip(Path(row["video"]).stem, index.parent / row["video"], float(row["reward"])) for row in rows]


def write_preview_sheet(folder: Path, path: Path) -> None:
    """Put the newest previews below `folder` into one picture, a row of frames each; nothing where there are none."""
    indices = sorted(folder.glob("update-*/index.json"))
    if not indices:
        return
    newest = indices[-1].parent
    update = int(newest.name.removeprefix("update-"))
    index = parse_json(indices[-1].read_text())
    captions = [f"{Path(row['video']).stem}: reward {row['reward']:.3f}, update {update}" for row in index]
    write_image(path, contact_sheet([[read_video(newest / row["video"])] for row in index], captions))

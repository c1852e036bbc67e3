"""The policy stage: cases and a reward (or stored clips) in, an adapter out; checkpoints, resume, metrics around the trainer."""

import json
import logging
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from idgrpo.bases.conditions import ConditionsCache
from idgrpo.bases.contract import Base, BaseEntry, VideoSize
from idgrpo.bases.lora import attach, compile_blocks, load_adapter, save_adapter
from idgrpo.bases.tuned import load_tuned, open_all, refuse_mixture, save_transformer
from idgrpo.errors import StoppedError, UsageError
from idgrpo.policy.alarms import alarm_figures
from idgrpo.policy.clips import Material, StoredClip, StoredPair, best_of_cases, check_clips, clip_size, clips_in
from idgrpo.policy.config import EngineConfig, PolicyConfig
from idgrpo.policy.dpo import PairBook
from idgrpo.policy.figures import draw_curves, previewed, write_preview_sheet
from idgrpo.policy.groups import CaseBook, check_geometry
from idgrpo.policy.schedule import window_steps
from idgrpo.policy.scoring import RewardFunction, RewardScorer
from idgrpo.policy.stored import ClipBook
from idgrpo.policy.trainer import Trainer
from idgrpo.policy.weights import assign, read_weights, save_weights, snapshot, trained_weights
from idgrpo.records.models import Case
from idgrpo.run.distributed import World
from idgrpo.run.engine import OptimizerSettings
from idgrpo.run.folder import RunFolder
from idgrpo.run.progress import progress, tell
from idgrpo.run.recompute import recompute_selected
from idgrpo.run.signals import StopSignal
from idgrpo.run.sinks import Sinks
from idgrpo.run.zero import make_engine

log = logging.getLogger(__name__)

Evaluate = Callable[[Base, int], Mapping[str, float]]
HEADLINES = ("reward_mean", "preference_loss", "matching_error")
"""The figure that says how an update went: of GRPO, of DPO, of SFT."""
SMOOTHED = 10
LEARNS_FROM: dict[str, tuple[type, str, str]] = {
    "grpo": (Case, "cases and a reward", "--cases and --rm, or --method sft"),
    "sft": (StoredClip, "stored clips", "--data SAMPLES (or PREFERENCES), or --method grpo"),
    "dpo": (StoredPair, "preferences between stored clips", "--data PREFERENCES"),
}


def train(
    base: Base,
    material: Material,
    reward: RewardFunction | Mapping[str, RewardFunction] | None,
    config: PolicyConfig,
    run: RunFolder,
    *,
    out: Path | None = None,
    init: Path | None = None,
    init_name: str | None = None,
    evaluate: Evaluate | None = None,
    world: World | None = None,
    cache: ConditionsCache | None = None,
) -> dict[str, float | str]:
    """Train a policy and write it to `out` (default: `policy/` in the run folder); give the run's closing figures.

    material: cases to draw (`method=grpo`), stored clips (`sft`) or preferences between such clips (`dpo`; policy/clips.py).
    reward: one callable, or several by name; SFT needs it for `clips.keep=best` only, DPO never. init: policy folder to start
    from (an adapter's rank and targets then hold, not `lora`); init_name: what the policy's card calls it. evaluate: called on every rank with the published weights in place, before the first update and every `evaluation.every` updates; the main rank's
    figures get the prefix `eval_`. cache: encodings shared with other runs. A full-size base may come without its transformer:
    everything is encoded first, and encoders and transformer are never in memory together.
    A run that has checkpoints continues from the newest, exactly. Raises StoppedError (75) after a clean stop.
    """
    world = world or World()
    book, scorer = _book(base, material, reward, config, run, world, cache)
    if not _is_tiny(base):
        base.release_encoders()
    base.load_transformer()
    _open_weights(base, config, init)
    base.transformer.eval()
    prepare_blocks(base, config.engine)
    run.checkpoints.keep_last, run.checkpoints.keep_every = config.checkpoint.keep_last, config.checkpoint.keep_every
    trainer = _make_trainer(base, book, scorer, config, run, world)
    history = _resume(trainer, run)
    if not history and world.is_main:
        shutil.rmtree(run.path / "tensorboard", ignore_errors=True)  # curves of a run that was thrown away
    sinks = Sinks(config.metrics.sinks if world.is_main else (), run.path, step=trainer.completed, fresh=not history)
    if world.is_main:
        _tell_places(run, config)
    with StopSignal() as stop, progress(config.num_updates, "train-policy", unit="update", shown=world.is_main) as bar:
        bar.advance(trainer.completed)
        trainer.tell_phase = bar.phase
        if trainer.completed == 0 and not history:
            save(trainer, run)  # a full disk is found now, not after the first hour
            if evaluate is not None and config.evaluation.every:
                history.append(_log(run, sinks, world, 0, _evaluation(trainer, evaluate)))
        while trainer.completed < config.num_updates:
            figures = _one_update(trainer, run, lambda: stop.requested)
            if evaluate is not None and config.evaluation.every and trainer.completed % config.evaluation.every == 0:
                bar.phase("held-out evaluation")
                figures |= _evaluation(trainer, evaluate)
            bar.phase("")
            history.append(_log(run, sinks, world, trainer.completed, figures | alarm_figures([*history, figures])))
            bar.advance(1, **shown_headline(history))
            sinks.show(trainer.completed, previewed(run.path / "previews", trainer.completed))
            stopping = world.any(stop.requested) and trainer.completed < config.num_updates
            if stopping or _checkpoint_due(trainer):
                save(trainer, run)
            if stopping:
                raise StoppedError(
                    f"stopped after {trainer.completed} of {config.num_updates} updates, checkpoint written",
                    fix="run again with --resume",
                )
    out = out or run.path / "policy"
    write_policy(trainer, out, book.size, init_name or (None if init is None else str(init)))
    if world.is_main:
        # The curves and the last samples travel with the policy: what is left of the run's folder goes when it is done.
        shutil.copyfile(run.metrics.path, out / "metrics.jsonl")
        draw_curves(history, out / "curves.png")
        write_preview_sheet(run.path / "previews", out / "previews.png")
    return closing_figures(history)


def _tell_places(run: RunFolder, config: PolicyConfig) -> None:
    """Say where the run can be watched."""
    tell(f"run folder {run.path}: figures in metrics.jsonl" + (", clips in previews/" if config.preview.every else ""))
    if "tensorboard" in config.metrics.sinks:
        tell(f"curves: tensorboard --logdir {shlex.quote(str(run.path / 'tensorboard'))}")


def shown_headline(history: Sequence[Mapping[str, float | str]]) -> dict[str, str]:
    """Give the last headline figure and the mean of the last ten, which moves less."""
    for name in HEADLINES:
        values = [float(row[name]) for row in history[-SMOOTHED:] if name in row]
        if values and name in history[-1]:
            mean = f" (last {len(values)}: {sum(values) / len(values):.4g})" if len(values) > 1 else ""
            return {name.split("_")[0]: f"{values[-1]:.4g}{mean}"}
    return {}


def _book(
    base: Base,
    material: Material,
    reward: RewardFunction | Mapping[str, RewardFunction] | None,
    config: PolicyConfig,
    run: RunFolder,
    world: World,
    cache: ConditionsCache | None,
) -> tuple[CaseBook | ClipBook, RewardScorer | None]:
    """Make ready what is trained on: cases and stored clips are encoded now (those of the embedded world at first use)."""
    scorer = None if reward is None else RewardScorer(reward, config.reward)
    kind, learns, fix = LEARNS_FROM[config.method]
    found: list[Any] = [item for item in material if isinstance(item, kind)]
    if len(found) < len(material) or (scorer is None and config.method == "grpo"):
        raise UsageError(f"method={config.method} learns from {learns}", fix=fix)
    if config.method == "grpo":
        assert scorer is not None
        check_geometry(len(found), config.group.num_cases, config.group.size, world.size)
        book = CaseBook(base, found, training_size(base.entry, config), cache)
        if not _is_tiny(base):
            book.encode_all(world)
        return book, scorer
    stored = _stored(base, found, scorer, config, run, world, cache)
    if not _is_tiny(base):
        stored.book.encode_all(world)
    stored.encode(world)
    return stored, scorer


def _stored(
    base: Base,
    material: list[Any],
    scorer: RewardScorer | None,
    config: PolicyConfig,
    run: RunFolder,
    world: World,
    cache: ConditionsCache | None,
) -> ClipBook:
    """Give the clips of SFT (all, or of each case the best) or the preferences of DPO."""
    if config.method == "dpo":
        check_clips(len(material), config.clips.num_per_update, world.size, "preferences")
        return PairBook(base, material, clip_size(clips_in(material), config.size), run.path / "clips", cache)
    clips = material
    if config.clips.keep == "best":
        if scorer is None:
            raise UsageError(
                "clips.keep=best needs a reward model to choose by", fix="--rm REF, or --set clips.keep=all"
            )
        clips = best_of_cases(clips, scorer, run.path / "clips", world)
    check_clips(len(clips), config.clips.num_per_update, world.size)
    return ClipBook(base, clips, clip_size(clips, config.size), run.path / "clips", cache)


def _open_weights(base: Base, config: PolicyConfig, init: Path | None) -> None:
    """Make trainable what is to be trained: a new adapter, a given one, or the whole transformer."""
    if init is not None:
        refuse_mixture(init, config.train)
    if config.train == "full":
        if init is not None:
            refuse_lost_reference(config)
            load_tuned(base, init)
        open_all(base)
    elif init is not None:
        load_adapter(base, init, trainable=True)
    else:
        attach(base, rank=config.lora.rank, alpha=config.lora.alpha, targets=config.lora.targets, seed=config.seed)


def refuse_lost_reference(config: PolicyConfig) -> None:
    """Refuse whole weights that start from a policy and are to be held near the base. Raises UsageError."""
    if config.train == "full" and config.kl.weight and config.kl.reference == "base":
        raise UsageError(
            "whole weights that start from a policy are held near that policy: the base's own are not kept",
            fix="--set kl.reference=start, or --set kl.weight=0",
        )


def _is_tiny(base: Base) -> bool:
    return base.entry.architecture == "tiny"


def training_size(entry: BaseEntry, config: PolicyConfig) -> VideoSize:
    """Give the size of the training videos: what is set, the rest from the base's training size."""
    own, setting = entry.train_size, config.size
    return VideoSize(setting.width or own.width, setting.height or own.height, setting.frames or own.frames)


def prepare_blocks(base: Base, setting: EngineConfig) -> None:
    """Set recomputation of activations and compile the transformer blocks, in place; names of weights stay as they are."""
    if setting.recompute == "on":
        base.transformer.enable_gradient_checkpointing()
    elif setting.recompute == "selective":
        base.transformer.enable_gradient_checkpointing(recompute_selected)
    elif setting.recompute == "off":
        base.transformer.disable_gradient_checkpointing()
    if setting.compile:
        compile_blocks(base)


def _make_trainer(
    base: Base,
    book: CaseBook | ClipBook,
    scorer: RewardScorer | None,
    config: PolicyConfig,
    run: RunFolder,
    world: World,
) -> Trainer:
    weights, optimizer = trained_weights(base.transformer), config.optimizer
    settings = OptimizerSettings(
        optimizer.lr, optimizer.betas, optimizer.eps, optimizer.weight_decay, optimizer.max_grad_norm
    )
    start = snapshot(weights)  # before the engine, which may split the weights over ranks
    engine = make_engine(base.transformer, weights, settings, world, config.engine.zero)
    return Trainer(base, book, scorer, config, engine, start=start, folder=run.path / "previews")


def _one_update(trainer: Trainer, run: RunFolder, stop_requested: Callable[[], bool]) -> dict[str, float | str]:
    """Make an update; when it stops half-way, checkpoint the state before it, which is still whole."""
    try:
        return trainer.update(stop_requested)
    except StoppedError:
        save(trainer, run)
        raise


def save(trainer: Trainer, run: RunFolder) -> None:
    """Write weights, average, optimizer and counters as one checkpoint; called on all ranks, written by the main."""
    # Only the main rank looks: another one may read the folder after the main has published, and leave it waiting.
    latest = run.checkpoints.latest() if trainer.world.is_main else None
    if trainer.world.any(latest is not None and latest.step == trainer.completed):
        return
    trainer.engine.prepare_save(run.path / "engine-parts")
    with trainer.engine.gathered():
        weights = snapshot(trainer.weights)

    def files(folder: Path) -> None:
        save_weights(folder / "weights.safetensors", weights)
        save_weights(folder / "average.safetensors", trainer.average.values)
        if trainer.old is not None:
            save_weights(folder / "old.safetensors", trainer.old.values)
        trainer.engine.save(folder)

    if trainer.world.is_main:
        window = window_steps(trainer.config.rollout.window, trainer.config.seed, trainer.completed)
        state = {
            "completed": trainer.completed,
            "skipped": trainer.skipped,
            **trainer.source.state(),
            "seed": trainer.config.seed,
            "next_window": list(window),
            "world_size": trainer.world.size,
        }
        run.checkpoints.save(trainer.completed, files, state)
    trainer.world.barrier()


def _resume(trainer: Trainer, run: RunFolder) -> list[dict[str, float | str]]:
    """Continue from the newest checkpoint, if any: restore everything, cut metrics written after it; give the metrics."""
    world = trainer.world
    found = run.checkpoints.latest() if world.is_main else None
    step = world.gather(None if found is None else found.step)[0]  # ranks must not each take what they see
    latest = found if world.is_main or step is None else run.checkpoints.at(step)
    if latest is None:
        if trainer.world.is_main:
            run.metrics.truncate_after(-1)
        return []
    if latest.step > trainer.config.num_updates:
        raise UsageError(
            f"this run has made {latest.step} updates already, {trainer.config.num_updates} are asked for",
            fix=f"--updates {latest.step} or more, or a run of its own: --name",
        )
    device = trainer.base.device
    if not trainer.engine.restores_weights:
        assign(trainer.weights, read_weights(latest.path / "weights.safetensors", device))
    trainer.average.values = read_weights(latest.path / "average.safetensors", device)
    if trainer.old is not None:
        trainer.old.values = read_weights(latest.path / "old.safetensors", device)
    trainer.engine.load(latest.path)
    trainer.completed, trainer.skipped = int(latest.state["completed"]), int(latest.state["skipped"])
    trainer.source.restore(latest.state)
    if trainer.world.is_main:
        run.metrics.truncate_after(trainer.completed)
    log.info("resumed after update %d", trainer.completed)
    trainer.world.barrier()
    return list(run.metrics.read(run.metrics.path))


def forget_work(run: RunFolder) -> None:
    """Drop checkpoints, clips and metrics of a run, so that the next one starts at update 1."""
    for name in ("previews", "heldout", "clips"):
        shutil.rmtree(run.path / name, ignore_errors=True)
    shutil.rmtree(run.checkpoints.folder, ignore_errors=True)
    run.metrics.truncate_after(-1)


def _checkpoint_due(trainer: Trainer) -> bool:
    last = trainer.completed == trainer.config.num_updates
    return last or trainer.completed % trainer.config.checkpoint.every == 0


def _evaluation(trainer: Trainer, evaluate: Evaluate) -> dict[str, float]:
    """Measure with the published weights; all ranks get the main one's figures."""
    start = time.perf_counter()
    with trainer.engine.whole(), trainer.published(), torch.no_grad():
        found = evaluate(trainer.base, trainer.completed)
    figures = {f"eval_{name}": value for name, value in found.items()} | {"seconds_eval": time.perf_counter() - start}
    return trainer.world.gather(figures)[0]


def _log(
    run: RunFolder, sinks: Sinks, world: World, step: int, figures: Mapping[str, float | str]
) -> dict[str, float | str]:
    if world.is_main:
        run.metrics.log(step, **figures)
        sinks.log(step, figures)
    return {"step": step, **figures}


def write_policy(trainer: Trainer, out: Path, size: VideoSize, start: str | None) -> None:
    """Write the adapter (or the transformer) in diffusers layout, and policy.json: the schedule and all settings that it was
    trained under, what it started from, and the reference policy it was held against (null: none was asked)."""
    out.mkdir(parents=True, exist_ok=True)
    with trainer.engine.gathered(), trainer.published():
        if trainer.world.is_main:
            (save_transformer if trainer.config.train == "full" else save_adapter)(trainer.base, out)
    if not trainer.world.is_main:
        return
    schedule, config = trainer.schedule, trainer.config
    document = {
        "schema": 1,
        "base": trainer.base.name,
        "method": config.method,
        "start": start,
        "reference": reference_name(config, trainer.base.name, start),
        "updates": trainer.completed,
        "weights": "average" if config.ema.decay else "last",
        "size": {"width": size.width, "height": size.height, "frames": size.frames},
        "reversed_references": trainer.base.reversed_references,
        "schedule": {
            "law": schedule.law,
            "shift": config.rollout.shift,
            "sigmas": schedule.sigmas.tolist(),
            "std_min": schedule.std_min,
            "std_max": schedule.std_max,
            "eta": schedule.eta,
            "guidance": trainer.config.rollout.guidance.model_dump(),
        },
        "config": config.model_dump(mode="json"),
    }
    (out / "policy.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def reference_name(config: PolicyConfig, base: str, start: str | None) -> str | None:
    """Name the reference policy: the base, or what the run started from; None where nothing asks it."""
    if not config.asks_reference:
        return None
    return start if start is not None and config.swaps_reference else base


def closing_figures(history: Sequence[Mapping[str, float | str]]) -> dict[str, float | str]:
    """Sum a run up: rewards (SFT: matching errors, DPO: pair losses) at both ends, means of up to 10 updates; KL, seconds, last evaluation."""
    headline = next((name for name in HEADLINES if any(name in row for row in history)), None)
    rows = [row for row in history if headline in row]
    if headline is None:
        raise UsageError("the run has no metrics to sum up", fix="start it again in a fresh run folder")
    ends = max(1, min(10, len(rows) // 3))

    def mean(part: Sequence[Mapping[str, float | str]]) -> float:
        return sum(float(row[headline]) for row in part) / len(part)

    figures: dict[str, float | str] = {
        "updates": len(rows),
        f"{headline.split('_')[0]}_first": mean(rows[:ends]),
        f"{headline.split('_')[0]}_last": mean(rows[-ends:]),
        "kl": float(rows[-1].get("kl", 0.0)),
        "skipped_steps": float(rows[-1].get("skipped_steps", 0.0)),
        "cpu_seconds": sum(float(row.get("cpu_seconds", 0.0)) for row in rows),
    }
    evaluations = [row for row in history if any(name.startswith("eval_") for name in row)]
    if evaluations:
        figures |= {name: value for name, value in evaluations[-1].items() if name.startswith("eval_")}
    return figures

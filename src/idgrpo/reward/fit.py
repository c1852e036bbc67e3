"""Fit a reward network to pairs: the head alone on features computed once, or the whole model; both resume exactly."""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.errors import StoppedError, UsageError
from idgrpo.records.models import Preference
from idgrpo.reward.attach import attach_parts, prepare_backbone
from idgrpo.reward.config import RewardModelConfig
from idgrpo.reward.data import (
    Clip,
    FeaturePairs,
    PairClips,
    PairCollator,
    PersonPair,
    clips_of,
    draw_order,
    keep_batch,
    label_code,
)
from idgrpo.reward.features import feature_folder, feature_scale, features_of
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.losses import load_loss
from idgrpo.reward.model import HeadNetwork, RewardNetwork
from idgrpo.reward.resolve import uses_bf16, uses_checkpointing
from idgrpo.reward.trainer import RewardTrainer, RunCallback, latest_complete, pair_objective, training_arguments
from idgrpo.run.distributed import World, world_from_environment
from idgrpo.run.folder import RunFolder
from idgrpo.run.metrics import MetricsLog
from idgrpo.run.progress import progress
from idgrpo.run.signals import StopSignal
from idgrpo.run.zero import ensure_process_group, import_deepspeed

TEACHER, STUDENT = "teacher", "student"
MAX_DRAWS = 10**8


@dataclass
class Session:
    """What one training has at hand; `cache` keeps features for other runs."""

    config: RewardModelConfig
    run: RunFolder
    network: RewardNetwork
    builder: InputBuilder
    device: str
    stop: StopSignal
    features: dict[Clip, Tensor]
    cache: Path
    world: World


def compute_features(session: Session, model: str, preferences: Sequence[Preference]) -> None:
    """Fill the session's features with every clip of these pairs; the backbone is frozen, so once is enough."""
    clips = list(dict.fromkeys(clip for p in preferences for clip in clips_of(p)))
    with progress(len(clips), "reading clips", unit="clip", shown=session.world.is_main) as bar:

        def advance(num: int) -> None:
            bar.advance(num)
            session.stop.check()

        found = features_of(
            clips,
            session.network,
            session.builder,
            folder=feature_folder(session.cache, model, clips, session.config.score_batch),
            batch=session.config.score_batch,
            advance=advance,
        )
    session.features.update(found)


def fit_head(session: Session, preferences: Sequence[Preference], stage: str, *, mix: str) -> None:
    """Train the head on cached features and put it into the session's network."""
    config = session.config.head
    torch.manual_seed(session.config.seed)
    differences = torch.stack([session.features[a] - session.features[b] for a, b in map(clips_of, preferences)])
    model = HeadNetwork(differences.shape[1], feature_scale(differences))
    order = _order(session, preferences, config.epochs, mix)
    _run_trainer(
        session,
        stage,
        model,
        FeaturePairs(differences, _codes(session, preferences), _weights(session, preferences), order),
        collator=keep_batch,
        groups=None,
        per_device_train_batch_size=config.batch_pairs,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
    )
    with torch.no_grad():
        session.network.head.weight.copy_(model.folded())


def fit_full(session: Session, preferences: Sequence[Preference], stage: str, *, mix: str) -> None:
    """Train adapters, vision tower, merger, token row and head together; they stay apart from the frozen weights."""
    config = session.config.full
    torch.manual_seed(session.config.seed)
    groups = attach_parts(session.network, config, session.builder.reward_id)
    on_gpu = session.device != "cpu"
    prepare_backbone(session.network, gradient_checkpointing=uses_checkpointing(session.config))
    session.network.autocast = torch.bfloat16 if uses_bf16(session.config) else None
    order = _order(session, preferences, config.epochs, mix)
    _run_trainer(
        session,
        stage,
        session.network,
        PairClips(
            preferences, _codes(session, preferences), _weights(session, preferences), order, session.builder.settings
        ),
        collator=PairCollator(session.builder),
        groups=groups,
        per_device_train_batch_size=config.batch_pairs,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=max(group["lr"] for group in groups),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        dataloader_num_workers=4 if on_gpu else 0,
        deepspeed=zero_config(config.zero) if config.zero is not None else None,
        ddp_find_unused_parameters=False,
    )
    session.network.to(session.device).eval()
    gc.collect()  # the trainer and its optimizer are in circles


def zero_config(stage: int) -> dict:
    """Return the smallest DeepSpeed configuration of this ZeRO stage; sizes come from the Trainer.

    Without `bf16`, which would cast everything, the float32 head too: the network brings its own autocast.
    """
    import_deepspeed()
    ensure_process_group(world_from_environment(dict(os.environ)))
    return {
        "zero_optimization": {"stage": stage},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
    }


def _codes(session: Session, preferences: Sequence[Preference]) -> list[int]:
    loss = session.config.loss
    return [label_code(p, loss.name, loss.both_bad) for p in preferences]


def _weights(session: Session, preferences: Sequence[Preference]) -> list[float]:
    return [session.config.loss.people if isinstance(p, PersonPair) else 1.0 for p in preferences]


def _order(session: Session, preferences: Sequence[Preference], epochs: float, mix: str) -> list[int]:
    data = session.config.data
    num_draws = max(1, round(epochs * len(preferences)))
    if num_draws > MAX_DRAWS:
        raise UsageError(
            f"{epochs:g} epochs of {len(preferences)} pairs are {num_draws:,} draws (limit {MAX_DRAWS:,})",
            fix=f"at most {MAX_DRAWS / len(preferences):g} epochs",
        )
    sources = [p.source for p in preferences]
    return draw_order(sources, num_draws, mix=mix, seed=session.config.seed, random_share=data.random_share)


def _run_trainer(session: Session, stage: str, model, dataset, *, collator, groups, **settings) -> None:
    config, world = session.config, session.world
    folder = session.run.path / stage
    loss = load_loss(config.loss.name)
    arguments = training_arguments(
        folder,
        device=session.device,
        seed=config.seed,
        save_steps=config.save_every,
        logging_steps=config.log_every,
        **settings,
    )
    per_update = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    num_updates = -(-len(dataset) // per_update)
    # The first rank chooses: another one may see a file system that is a moment behind.
    checkpoint = world.gather(latest_complete(folder) if world.is_main else None)[0]
    metrics = session.run.metrics if stage == STUDENT else MetricsLog(session.run.path / f"{stage}.jsonl")
    if world.is_main:
        metrics.truncate_after(int(checkpoint.name.split("-")[-1]) if checkpoint else 0)
    with progress(num_updates, f"training {stage}", unit="update", shown=world.is_main) as bar:
        done = 0

        def advance(step: int, value: float | None) -> None:
            nonlocal done
            bar.advance(step - done, **({"loss": value} if value is not None else {}))
            done = step

        def log(step: int, **values: float) -> None:
            metrics.log(step, **values)

        trainer = RewardTrainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            data_collator=collator,
            compute_loss_func=pair_objective(loss, config.loss.arguments()),
            groups=groups,
            callbacks=[RunCallback(log, advance, lambda: session.stop.requested, world)],
        )
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step < num_updates:
        raise StoppedError(
            f"stopped after {trainer.state.global_step} of {num_updates} updates", fix="--resume goes on"
        )

"""Train a reward model on preferences: split by identity, train the head or the whole model, measure, save."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from idgrpo.errors import DataError, StoppedError, UsageError
from idgrpo.records.preference import Preference
from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.check import check_media
from idgrpo.reward.checkpoint import checkpoint_digest, default_vlm, find_vlm
from idgrpo.reward.config import RewardConfig
from idgrpo.reward.data import (
    CopyPair,
    FeaturePairs,
    PairClips,
    PairCollator,
    clips_of,
    copies_of,
    keep_batch,
    label_code,
)
from idgrpo.reward.features import feature_folder, feature_scale, features_of
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.losses import INVALID, load_loss
from idgrpo.reward.measure import judge, measure
from idgrpo.reward.model import HeadNetwork, RewardNetwork, save_network
from idgrpo.reward.parts import add_token_rows, attach_parts, merge_parts, prepare_backbone
from idgrpo.reward.resolve import trained_mode, uses_bf16, uses_checkpointing
from idgrpo.reward.schedule import draw_order
from idgrpo.reward.session import Session
from idgrpo.reward.splits import carve_validation, check_parts, split_by_identity
from idgrpo.reward.teacher import filter_by_teacher
from idgrpo.reward.trainer import RewardTrainer, RunCallback, latest_complete, pair_objective, training_arguments
from idgrpo.run.distributed import world_from_environment
from idgrpo.run.folder import RunFolder
from idgrpo.run.metrics import MetricsLog
from idgrpo.run.progress import progress
from idgrpo.run.signals import StopSignal
from idgrpo.run.zero import ensure_process_group, import_deepspeed
from idgrpo.video.read import read_video

TEACHER, STUDENT, FEATURES = "teacher", "student", "features"


def resolve_vlm(preferences: Sequence[Preference], config: RewardConfig) -> str:
    """Return the checkpoint's name: the user's, or the one that suits the first clip's size."""
    if config.vlm:
        return config.vlm
    if not preferences:
        raise DataError("there are no preferences to train on")
    height, width = read_video(Path(preferences[0].video_a), indices=[0]).shape[-2:]
    return default_vlm(width, height)


def train(
    preferences: list[Preference],
    config: RewardConfig,
    run: RunFolder,
    out: Path,
    *,
    cache: Path | None = None,
    num_rejected: int = 0,
) -> dict:
    """Train, measure and save a reward model; return its card (metrics per part, threshold, settings).

    A run that was stopped or killed goes on from its last whole checkpoint and ends with the same weights. In a job of
    several processes every rank calls this; the main one measures and saves, the others return an empty card.

    Args:
        cache: where features for training the head alone are kept for other runs on the same pairs; None: in the run.
        num_rejected: lines of the data that were put aside; kept in the card.

    Raises:
        DataError: files are missing or unreadable, an identity is in two parts, a part is empty (test may be where
            `data.test_share` is 0).
        ArtifactError, MachineError: the vision-language checkpoint is damaged or not here.
        StoppedError: a stop was asked for; a checkpoint was written.
    """
    check_media(preferences)
    shares = {"validation_share": config.data.validation_share, "test_share": config.data.test_share}
    parts = carve_validation(split_by_identity(preferences, **shares), config.data.validation_share)
    check_parts(parts, test_share=config.data.test_share)
    name = resolve_vlm(preferences, config)
    folder = find_vlm(name)
    network, builder = open_network(folder, config)
    world = world_from_environment(dict(os.environ))
    device = f"cuda:{world.local_rank}" if torch.cuda.is_available() else "cpu"
    head_only = trained_mode(config, network.head.weight.shape[1]) == "head"
    if head_only and world.size > 1:
        raise UsageError("training the head alone takes one process", fix="leave --nproc out, or --set mode=full")
    with StopSignal() as stop:
        session = Session(config, run, network.to(device), builder, device, stop, {}, cache or run.path / FEATURES)
        copies = copies_of(parts["train"], config.data.copies)
        card: dict = {"mode": "head" if head_only else "full", "vlm": name}
        if num_rejected:
            card["num_rejected"] = num_rejected
        if head_only:
            model = f"{checkpoint_digest(folder)} {builder.settings.digest()}"
            compute_features(session, model, [*(p for part in parts.values() for p in part), *copies])
        fit = fit_head if head_only else fit_full
        training = usable([*parts["train"], *copies], config)
        if config.data.teacher:
            training, card["teacher"] = filter_by_teacher(
                training,
                parts["validation"],
                fit=lambda pairs: fit(session, pairs, TEACHER, mix="human-only"),
                judge=lambda pairs: judge(session, pairs),
                seed=config.seed,
            )
            if not head_only:  # the teacher's weights are not where the student starts
                session.network = open_network(folder, config)[0].to(device)
        card["num_copies"] = sum(isinstance(pair, CopyPair) for pair in training)
        fit(session, training, STUDENT, mix=config.data.mix)
        if not world.is_main:
            return {}
        card |= measure(session, parts, num_training=len(training))
    card["config"] = config.model_dump(mode="json")
    save_network(session.network, builder, card, out, copy_from=folder if head_only else None)
    if run.metrics.path.is_file():
        shutil.copyfile(run.metrics.path, out / "metrics.jsonl")
    return card


def forget_work(run: RunFolder) -> None:
    """Remove features and checkpoints of a run whose model is published; figures and settings stay."""
    for name in (FEATURES, TEACHER, STUDENT):
        shutil.rmtree(run.path / name, ignore_errors=True)


def open_network(folder: Path, config: RewardConfig) -> tuple[RewardNetwork, InputBuilder]:
    """Load checkpoint and tokenizer, add missing special tokens, put a fresh head on top."""
    builder = InputBuilder.load(folder, **config.inputs.overrides())
    backbone = load_backbone(folder, dtype=torch.bfloat16 if uses_bf16(config) else torch.float32)
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    width = backbone.get_input_embeddings().weight.shape[1]
    return RewardNetwork(backbone, width, seed=config.seed).eval(), builder


def usable(preferences: Sequence[Preference], config: RewardConfig) -> list[Preference]:
    """Return the pairs that the loss can learn from."""
    loss = config.loss
    found = [p for p in preferences if label_code(p, loss.name, loss.both_bad) != INVALID]
    if not found:
        raise DataError(
            f"none of the {len(preferences)} training pairs can be used with the loss {loss.name} "
            f"(both_bad={loss.both_bad})"
        )
    return found


def compute_features(session: Session, model: str, preferences: Sequence[Preference]) -> None:
    """Fill the session's features with every clip of these pairs; the backbone is frozen, so once is enough."""
    clips = list(dict.fromkeys(clip for p in preferences for clip in clips_of(p)))
    with progress(len(clips), "reading clips", unit="clip") as bar:

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
        FeaturePairs(differences, _codes(session, preferences), order),
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
    """Train adapters, vision tower, merger, token row and head together, then fold the adapters in."""
    config = session.config.full
    torch.manual_seed(session.config.seed)
    groups = attach_parts(session.network, config, session.builder.reward_id)
    on_gpu = session.device != "cpu"
    prepare_backbone(session.network, gradient_checkpointing=uses_checkpointing(session.config))
    session.network.autocast = torch.bfloat16 if uses_bf16(session.config) else None
    _run_trainer(
        session,
        stage,
        session.network,
        PairClips(preferences, _codes(session, preferences), _order(session, preferences, config.epochs, mix)),
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
    merge_parts(session.network)
    session.network.to(session.device).eval()


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


def _order(session: Session, preferences: Sequence[Preference], epochs: float, mix: str) -> list[int]:
    data = session.config.data
    num_draws = max(1, round(epochs * len(preferences)))
    sources = [p.source for p in preferences]
    return draw_order(sources, num_draws, mix=mix, seed=session.config.seed, random_share=data.random_share)


def _run_trainer(session: Session, stage: str, model, dataset, *, collator, groups, **settings) -> None:
    config = session.config
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
    checkpoint = latest_complete(folder)
    metrics = session.run.metrics if stage == STUDENT else MetricsLog(session.run.path / f"{stage}.jsonl")
    if arguments.process_index == 0:
        metrics.truncate_after(int(checkpoint.name.split("-")[-1]) if checkpoint else 0)
    with progress(num_updates, f"training {stage}", unit="update") as bar:
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
            callbacks=[RunCallback(log, advance, lambda: session.stop.requested)],
        )
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if session.stop.requested and trainer.state.global_step < num_updates:
        raise StoppedError(
            f"stopped after {trainer.state.global_step} of {num_updates} updates", fix="--resume goes on"
        )

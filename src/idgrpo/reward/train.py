"""Train a reward model on preferences: split by identity, fit, save, measure what was saved on people it never saw."""

import gc
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from idgrpo.errors import DataError, UsageError
from idgrpo.records.atomic import replacing
from idgrpo.records.document import parse_json
from idgrpo.records.models import Preference
from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.check import check_media
from idgrpo.reward.checkpoint import checkpoint_digest, default_vlm, find_vlm
from idgrpo.reward.config import RewardModelConfig
from idgrpo.reward.data import CopyPair, PersonPair, clips_of, copies_of, label_code, person_pairs
from idgrpo.reward.features import features_of
from idgrpo.reward.fit import STUDENT, TEACHER, Session, compute_features, fit_full, fit_head
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.losses import INVALID
from idgrpo.reward.metrics import Judged, best_tie_threshold, report
from idgrpo.reward.model import RewardNetwork, require_checkpoint, save_network, write_card
from idgrpo.reward.parts import Parts, add_token_rows
from idgrpo.reward.probes import run_probes
from idgrpo.reward.resolve import trained_mode, uses_bf16
from idgrpo.reward.score import RewardModel
from idgrpo.reward.splits import carve_validation, check_parts, split_by_identity
from idgrpo.reward.teacher import filter_by_teacher
from idgrpo.run.distributed import join_world, rank_device
from idgrpo.run.folder import RunFolder
from idgrpo.run.signals import StopSignal
from idgrpo.video.read import read_video

FEATURES, TAUGHT = "features", "teacher.json"


def resolve_vlm(preferences: Sequence[Preference], config: RewardModelConfig) -> str:
    """Return the checkpoint's name: the user's, or the one that suits the first clip's size."""
    if config.vlm:
        return config.vlm
    if not preferences:
        raise DataError("there are no preferences to train on")
    height, width = read_video(Path(preferences[0].video_a), indices=[0]).shape[-2:]
    return default_vlm(width, height)


def train(
    preferences: list[Preference],
    config: RewardModelConfig,
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
    world = join_world()
    device = rank_device("cuda", world) if torch.cuda.is_available() else "cpu"
    network, builder = open_network(folder, config)
    head_only = trained_mode(config, network.head.weight.shape[1]) == "head"
    if head_only and world.size > 1:
        raise UsageError("training the head alone takes one process", fix="leave --nproc out, or --set mode=full")
    with StopSignal() as stop:
        where = cache or run.path / FEATURES
        session = Session(config, run, network.to(device), builder, device, stop, {}, where, world)
        del network  # the session's is the only one
        extra = [*copies_of(parts["train"], config.data.copies), *_asked_alone(parts["train"], config)]
        card: dict = {"mode": "head" if head_only else "full", "vlm": name}
        if num_rejected:
            card["num_rejected"] = num_rejected
        if head_only:
            model = f"{checkpoint_digest(folder)} {builder.settings.digest()}"
            compute_features(session, model, [*(p for part in parts.values() for p in part), *extra])
        fit = fit_head if head_only else fit_full
        training = usable([*parts["train"], *extra], config)
        if config.data.teacher:
            training, card["teacher"] = taught(session, fit, training, parts["validation"], folder)
        card["num_copies"] = sum(isinstance(pair, CopyPair) for pair in training)
        card["num_person_pairs"] = sum(isinstance(pair, PersonPair) for pair in training)
        fit(session, training, STUDENT, mix=config.data.mix)
        if not world.is_main:
            return {}
        card["config"] = config.model_dump(mode="json")
        own_rows = {builder.token_id(token) for token in builder.added_tokens}
        own = Parts.of(session.network.backbone, sorted(own_rows if head_only else own_rows | {builder.reward_id}))
        save_network(session.network, builder, card, out, copy_from=folder, parts=own)
        load_saved(session, out)
        card |= measure(session, parts, num_training=len(training))
    write_card(builder, card, out)
    if run.metrics.path.is_file():
        shutil.copyfile(run.metrics.path, out / "metrics.jsonl")
    return card


def _asked_alone(training: Sequence[Preference], config: RewardModelConfig) -> list[PersonPair]:
    """Give the pairs about one person that the loss weighs; DataError where it weighs some and the data has none."""
    if config.loss.people == 0:
        return []
    found = person_pairs(training)
    if not found:
        raise DataError(
            "loss.people weighs votes on who is wrong, and in no training pair a person was kept in one clip only",
            fix="collect some: idgrpo annotate --set ask_people=true; or leave loss.people out",
        )
    return found


def load_saved(session: Session, out: Path) -> None:
    """Put the model that was saved, as everybody will load it, in the place of the one that was trained."""
    before = session.network.backbone.dtype
    session.network = None  # type: ignore[assignment]  # two of them may not fit
    gc.collect()
    session.network = RewardModel.load(out, session.device).network
    if session.network.backbone.dtype != before:
        session.features = {}  # they are of another precision


def taught(
    session: Session,
    fit: Callable[..., None],
    training: Sequence[Preference],
    validation: Sequence[Preference],
    checkpoint: Path,
) -> tuple[list[Preference], dict]:
    """Filter pairs by a teacher; what it kept is stored with the run, so that a resumed one does not ask again."""
    path, world = session.run.path / TAUGHT, session.world
    known = parse_json(path.read_text(encoding="utf-8")) if world.is_main and path.is_file() else None
    known = world.gather(known)[0]
    if known is not None:
        kept_ids = set(known["kept"])
        return [pair for pair in training if pair.pair_id in kept_ids], known["report"]
    kept, told = filter_by_teacher(
        training,
        validation,
        fit=lambda pairs: fit(session, pairs, TEACHER, mix="human-only"),
        judge=lambda pairs: judge(session, pairs),
        seed=session.config.seed,
    )
    if world.is_main:
        with replacing(path) as draft:
            draft.write_text(json.dumps({"kept": [pair.pair_id for pair in kept], "report": told}), encoding="utf-8")
    if fit is fit_full:  # the teacher's weights are not where the student starts
        session.network = None  # type: ignore[assignment]
        gc.collect()
        session.network = open_network(checkpoint, session.config)[0].to(session.device)
    return kept, told


def judge(session: Session, preferences: Sequence[Preference]) -> list[Judged]:
    """Return the model's gap for each pair; the ranks of a job judge a share each, all ranks get all gaps."""
    world = session.world
    own = _gaps(session, preferences[world.rank :: world.size])
    gaps = [0.0] * len(preferences)
    for rank, found in enumerate(world.gather(own)):
        gaps[rank :: world.size] = found
    return [Judged(pair, gap) for pair, gap in zip(preferences, gaps, strict=True)]


def _gaps(session: Session, preferences: Sequence[Preference]) -> list[float]:
    clips = [clip for p in preferences for clip in clips_of(p)]
    if not clips:
        return []
    features = session.features
    if any(clip not in features for clip in clips):
        features = features_of(clips, session.network, session.builder, batch=session.config.score_batch)
    with torch.inference_mode():
        rows = torch.stack([features[clip] for clip in clips]).to(session.network.head.weight.device)
        scores = session.network.score_features(rows)
    return (scores[::2] - scores[1::2]).tolist()


def measure(session: Session, parts: dict[str, list[Preference]], *, num_training: int) -> dict:
    """Measure on validation and test people; the tie threshold comes from validation alone.

    `measured_on` names the part that the model's figures are quoted from: test, or validation where that has none.
    `at_chance`: the 95 % interval of the accuracy on decided validation pairs, `at_chance_interval`, reaches down to one
    half: nothing shows that the model learnt anything. The training part is measured on at most 2,000 of its pairs, to
    show over-fitting. The first rank measures alone.
    """

    def judged(pairs: Sequence[Preference]) -> list[Judged]:
        return [Judged(pair, gap) for pair, gap in zip(pairs, _gaps(session, pairs), strict=True)]

    theta = session.config.loss.arguments().get("theta", 1.0)
    validation = judged(parts["validation"])
    threshold = best_tie_threshold(validation)
    some = parts["train"]
    if len(some) > 2000:
        some = random.Random(session.config.seed).sample(some, 2000)
    test = judged(parts["test"])
    measured_on = "test" if any(pair.label != "tie" for pair in test) else "validation"
    model = RewardModel(session.network, session.builder, {}, batch=session.config.score_batch)
    figures = report(validation, threshold, theta)
    shown = test if measured_on == "test" else validation
    return {
        "tie_threshold": threshold,
        "num_training_pairs": num_training,
        "measured_on": measured_on,
        "at_chance": figures["accuracy_decided_ci95"][0] <= 0.5,
        "at_chance_interval": figures["accuracy_decided_ci95"],
        "validation": figures,
        "test": report(test, threshold, theta),
        "train": report(judged(some), threshold, theta),
        "probes": run_probes(model, shown, seed=session.config.seed) | _person_alone(session, shown),
    }


def _person_alone(session: Session, judged: Sequence[Judged]) -> dict[str, dict]:
    """Probe: asked about one person alone, the clip that kept them scores above the one that did not."""
    pairs = person_pairs(one.preference for one in judged)
    right = [gap != 0 and (gap > 0) == (p.label == "a") for p, gap in zip(pairs, _gaps(session, pairs), strict=True)]
    return {"person_alone": {"pass_rate": sum(right) / len(right), "num_clips": len(right)}} if right else {}


def forget_work(run: RunFolder) -> None:
    """Remove features and checkpoints of a run whose model is published; figures and settings stay."""
    for name in (FEATURES, TEACHER, STUDENT):
        shutil.rmtree(run.path / name, ignore_errors=True)
    (run.path / TAUGHT).unlink(missing_ok=True)


def open_network(folder: Path, config: RewardModelConfig) -> tuple[RewardNetwork, InputBuilder]:
    """Load checkpoint and tokenizer, add missing special tokens, put a fresh head on top."""
    require_checkpoint(folder)
    builder = InputBuilder.load(folder, **config.inputs.overrides())
    backbone = load_backbone(folder, dtype=torch.bfloat16 if uses_bf16(config) else torch.float32)
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    width = backbone.get_input_embeddings().weight.shape[1]
    return RewardNetwork(backbone, width, seed=config.seed).eval(), builder


def usable(preferences: Sequence[Preference], config: RewardModelConfig) -> list[Preference]:
    """Return the pairs that the loss can learn from."""
    loss = config.loss
    found = [p for p in preferences if label_code(p, loss.name, loss.both_bad) != INVALID]
    if not found:
        raise DataError(
            f"none of the {len(preferences)} training pairs can be used with the loss {loss.name} "
            f"(both_bad={loss.both_bad})"
        )
    return found

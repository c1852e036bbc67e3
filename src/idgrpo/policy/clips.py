"""Stored clips that a policy can learn from: of samples, the preferred or both of a preference, the best of each case by a reward."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.bases.contract import VideoSize
from idgrpo.bases.generate import read_references
from idgrpo.errors import DataError, StoppedError, UsageError
from idgrpo.policy.advantage import combine_rewards
from idgrpo.policy.config import DpoConfig, PolicyConfig
from idgrpo.policy.scoring import RewardScorer
from idgrpo.records.atomic import replacing
from idgrpo.records.document import parse_json
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Case, Preference, Sample
from idgrpo.reward.data import label_code
from idgrpo.reward.losses import INVALID
from idgrpo.run.distributed import World
from idgrpo.run.progress import progress
from idgrpo.video.read import read_video

SCORED_AT_ONCE = 16
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredClip:
    """A clip on disk with the case that it shows; `id` is one of its own."""

    id: str
    case: Case
    video: Path


@dataclass(frozen=True)
class StoredPair:
    """Two clips of one case; label: A, B or TIE of `reward.losses`."""

    id: str
    a: StoredClip
    b: StoredClip
    label: int


Material = Sequence[Case] | Sequence[StoredClip] | Sequence[StoredPair]
"""What a run learns from: cases that it draws itself, clips that lie on disk, or preferences between such clips."""


def read_pairs(path: Path, setting: DpoConfig) -> list[StoredPair]:
    """Read the preferences of a file that the loss can learn from; what is left out is said in the log.

    Ties are left out where the loss has none, `both_bad` where `dpo.both_bad` says so, and rows of another split than `train`
    always: they are there to judge by. Raises DataError where nothing is left, and for a bad line, with file, line and field.
    """
    found = list(read_records(path, Preference, unique="pair_id"))
    left_out: Counter[str] = Counter()
    kept = []
    for row in found:
        code = label_code(row, setting.loss, setting.both_bad)
        if row.split not in (None, "train"):
            left_out[f"of the {row.split} split"] += 1
        elif code == INVALID:
            left_out["ties" if row.label == "tie" else "both_bad"] += 1
        else:
            kept.append(StoredPair(row.pair_id, _side(row, row.video_a), _side(row, row.video_b), code))
    told = ", ".join(f"{count} {what}" for what, count in sorted(left_out.items()))
    if not kept:
        raise DataError(
            f"{path}: none of {len(found)} preferences can be learnt from ({told or 'there are none'})",
            fix="give decided pairs, or a loss that learns from ties: --set dpo.loss=rao_kupper",
        )
    if left_out:
        log.warning("%s: %d of %d preferences are learnt from; left out: %s", path, len(kept), len(found), told)
    return kept


def _side(row: Preference, video: str) -> StoredClip:
    return StoredClip(video, Case(id=row.case_id, prompt=row.prompt, references=row.references), Path(video))


def read_clips(path: Path) -> list[StoredClip]:
    """Read the clips of a file of samples, or the preferred ones of a file of preferences; the first line says which it is.

    Raises DataError for what is neither, with file, line and field.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file", fix="give samples or preferences, one line of JSON each")
    with path.open("rb") as lines:
        is_pairs = b'"pair_id"' in lines.readline()
    if is_pairs:
        return clips_of_preferences(list(read_records(path, Preference, unique="pair_id")))
    clips = clips_of_samples(list(read_records(path, Sample, unique="id")))
    if not clips:
        raise DataError(f"{path} holds no clips", fix="give samples or preferences, one line of JSON each")
    return clips


def clips_of_samples(samples: Sequence[Sample]) -> list[StoredClip]:
    """Take every sample as a clip of its case."""
    return [
        StoredClip(
            sample.id, Case(id=sample.case_id, prompt=sample.prompt, references=sample.references), Path(sample.video)
        )
        for sample in samples
    ]


def clips_of_preferences(preferences: Sequence[Preference]) -> list[StoredClip]:
    """Take the clips that were preferred in more of their pairs than not; ties and `both_bad` decide nothing.

    Rows of another split than `train` are left out, as for DPO: they are there to judge by. Raises DataError where no clip is left.
    """
    learnt = [row for row in preferences if row.split in (None, "train")]
    if len(learnt) < len(preferences):
        log.warning(
            "%d of %d preferences are of another split than train and left out",
            len(preferences) - len(learnt),
            len(preferences),
        )
    balance: Counter[str] = Counter()
    clips: dict[str, StoredClip] = {}
    for row in learnt:
        if row.label not in ("a", "b"):
            continue
        won, lost = (row.video_a, row.video_b) if row.label == "a" else (row.video_b, row.video_a)
        balance[won] += 1
        balance[lost] -= 1
        clips.setdefault(won, _side(row, won))
    kept = [clip for video, clip in clips.items() if balance[video] > 0]
    if not kept:
        raise DataError(
            f"no clip of {len(learnt)} preferences to learn from was preferred more often than not",
            fix="give preferences with decided pairs (labels a and b)",
        )
    return kept


def check_clips(num_clips: int, num_per_update: int, world_size: int, what: str = "clips") -> None:
    """Refuse what cannot be dealt out: an update holds a clip (or a preference) once, and ranks take equally many."""
    if num_per_update > num_clips:
        raise UsageError(
            f"an update takes {num_per_update} different {what}, but there are {num_clips}",
            fix=f"--set clips.num_per_update={num_clips}, or give more {what}",
        )
    if num_per_update % world_size:
        nearest = max(num_per_update // world_size, 1) * world_size
        raise UsageError(
            f"{num_per_update} {what} an update do not divide over {world_size} ranks ({num_per_update} % {world_size} = "
            f"{num_per_update % world_size})",
            fix=f"--set clips.num_per_update={nearest}",
        )


def clip_size(clips: Sequence[StoredClip], config: PolicyConfig) -> VideoSize:
    """Give the size that is trained at: what is set, the rest as the first clip has it."""
    frames, _, height, width = read_video(clips[0].video).shape
    setting = config.size
    return VideoSize(setting.width or width, setting.height or height, setting.frames or frames)


def read_clip(clip: StoredClip, size: VideoSize) -> Tensor:
    """Read a clip uint8 [frame, 3, height, width]; DataError where it has another size."""
    pixels = read_video(clip.video)
    found = VideoSize(pixels.shape[3], pixels.shape[2], pixels.shape[0])
    if found != size:
        raise DataError(
            f"{clip.video} is {found}, this run trains at {size}: all clips need one size",
            fix="sample them again with --size, or leave out size.* so that the first clip decides",
        )
    return pixels


def best_of_cases(clips: Sequence[StoredClip], scorer: RewardScorer, folder: Path, world: World) -> list[StoredClip]:
    """Keep of each case the clip that the reward model scores highest; a clip without a score is left out.

    Scores are kept in folder/scores.json: a run that goes on does not score again. Raises StoppedError where fewer than
    `reward.min_valid_share` of the clips came back with a score.
    """
    path = folder / "scores.json"
    found = parse_json(path.read_text()) if path.is_file() else _scores(clips, scorer, world)
    valid = sum(score is not None for score in found.values())
    if valid < scorer.config.min_valid_share * len(clips):
        raise StoppedError(
            f"only {valid} of {len(clips)} clips could be scored",
            fix="bring the reward back and run again with --resume",
        )
    if world.is_main and not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_text(json.dumps(found, indent=1) + "\n")
    world.barrier()
    best: dict[str, tuple[float, StoredClip]] = {}
    for clip in clips:
        score, rival = found[clip.id], best.get(clip.case.id)
        if score is not None and (rival is None or score > rival[0]):
            best[clip.case.id] = (score, clip)
    return [clip for _, clip in best.values()]


def _scores(clips: Sequence[StoredClip], scorer: RewardScorer, world: World) -> dict[str, float | None]:
    own = list(clips)[world.rank :: world.size]
    scores: dict[str, float | None] = {}
    with progress(len(own), "score clips", unit="clip", shown=world.is_main) as bar:
        for start in range(0, len(own), SCORED_AT_ONCE):
            part = own[start : start + SCORED_AT_ONCE]
            values = scorer.score(
                [read_video(clip.video) for clip in part],
                [read_references(clip.case) for clip in part],
                [clip.case.prompt for clip in part],
            )
            total = combine_rewards(values, scorer.config.weights)
            scores |= {clip.id: float(v) if torch.isfinite(v) else None for clip, v in zip(part, total, strict=True)}
            bar.advance(len(part))
    return {name: value for rank in world.gather(scores) for name, value in rank.items()}

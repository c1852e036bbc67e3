"""Stored clips that a policy can learn from: of samples, the preferred or both of a preference, the best of each case by a reward."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from idgrpo.bases.contract import VideoSize
from idgrpo.bases.generate import read_references
from idgrpo.errors import DataError, StoppedError, UsageError
from idgrpo.policy.advantage import combine_rewards
from idgrpo.policy.config import DpoConfig, SizeConfig
from idgrpo.policy.scoring import RewardScorer
from idgrpo.records.atomic import replacing
from idgrpo.records.document import parse_json
from idgrpo.records.jsonl import MAX_ERRORS, explain, read_records
from idgrpo.records.models import Case, Preference, Sample
from idgrpo.records.photos import photo_digest
from idgrpo.reward.check import one_clip_twice, photo_problem
from idgrpo.reward.data import label_code, video_facts
from idgrpo.reward.losses import INVALID, A, B, takes_ties
from idgrpo.run.distributed import World
from idgrpo.run.progress import progress
from idgrpo.video.read import read_video

SCORED_AT_ONCE = 16
ONE_SIZE = "all clips need one size: sample them again with --size, or leave out size.* so that the first clip decides"
R = TypeVar("R", Sample, Preference)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredClip:
    """A clip on disk with the case that it shows; `id` is one of its own. `line` ("prefs.jsonl:3") and `key` name its field."""

    id: str
    case: Case
    video: Path
    line: str = field(default="", compare=False)
    key: str = field(default="video", compare=False)

    @property
    def shown(self) -> tuple[str, str]:
        """Video and case: one file may stand for several cases, and is another clip to learn from in each."""
        return str(self.video), self.who

    @cached_property
    def who(self) -> str:
        """The case by what it asks for: copies of its photos in other folders are the same case."""
        people = [(one.person, photo_digest(one.images[0]) or one.images[0]) for one in self.case.references]
        return json.dumps([self.case.id, self.case.prompt, people])

    def wrong(self, problem: str, key: str | None = None) -> str:
        """Say what is wrong with the clip, or with another field of its line."""
        return f"{self.line}: field '{key or self.key}': {problem}" if self.line else f"clip {self.id}: {problem}"


@dataclass(frozen=True)
class StoredPair:
    """Two clips of one case; label: A, B or TIE of `reward.losses`."""

    id: str
    a: StoredClip
    b: StoredClip
    label: int


Material = Sequence[Case] | Sequence[StoredClip] | Sequence[StoredPair]
"""What a run learns from: cases that it draws itself, clips that lie on disk, or preferences between such clips."""


def clips_in(material: Material) -> list[StoredClip]:
    """Give every clip of the material, as often as it stands there; cases hold none."""
    return [
        clip
        for item in material
        if not isinstance(item, Case)
        for clip in ((item.a, item.b) if isinstance(item, StoredPair) else (item,))
    ]


def read_clips(path: Path) -> list[StoredClip]:
    """Read the clips of a file of samples. Raises DataError for what is none, with file, line and field."""
    clips = [
        StoredClip(sample.id, case_of(sample), Path(sample.video), line)
        for line, sample in _numbered(path, Sample, "id")
    ]
    if not clips:
        raise DataError(f"{path} holds no clips", fix="give samples or preferences, one line of JSON each")
    return clips


def read_pairs(path: Path, setting: DpoConfig | None = None) -> list[StoredPair]:
    """Read the preferences of a file that the loss can learn from; what is left out is said in the log.

    Ties are left out where the loss has none, `both_bad` where `dpo.both_bad` says so, and rows of another split than `train`
    always: they are there to judge by. Without a setting only decided pairs are taken. Raises DataError where nothing is left,
    and for a bad line, with file, line and field.
    """
    loss, both_bad = ("bradley_terry", "skip") if setting is None else (setting.loss, setting.both_bad)
    left_out: Counter[str] = Counter()
    kept = []
    for line, row in _numbered(path, Preference, "pair_id"):
        code = label_code(row, loss, both_bad)
        if row.split not in (None, "train"):
            left_out[f"of the {row.split} split"] += 1
        elif code == INVALID:
            left_out["ties" if row.label == "tie" else "both_bad"] += 1
        else:
            a, b = (
                StoredClip(f"{row.pair_id}.{side}", case_of(row), Path(video), line, f"video_{side}")
                for side, video in (("a", row.video_a), ("b", row.video_b))
            )
            kept.append(StoredPair(row.pair_id, a, b, code))
    told, found = ", ".join(f"{count} {what}" for what, count in sorted(left_out.items())), len(kept) + left_out.total()
    if not kept:
        raise DataError(
            f"{path}: none of {found} preferences can be learnt from ({told or 'there are none'})",
            fix=_to_keep_some(left_out, setting),
        )
    if left_out:
        log.warning("%s: %d of %d preferences are learnt from; left out: %s", path, len(kept), found, told)
    return kept


def _to_keep_some(left_out: Counter[str], setting: DpoConfig | None) -> str:
    """Say what would make preferences that were all left out some to learn from."""
    if not left_out:
        return "collect preferences: `idgrpo annotate`, or `idgrpo distort`"
    undecided = left_out["ties"] + left_out["both_bad"]
    found = ["give rows of the train split, or rows without a split"] if left_out.total() > undecided else []
    if undecided:
        found.append("give decided pairs (labels a and b)")
    if undecided and setting is not None:
        sets = [] if takes_ties(setting.loss) else ["--set dpo.loss=rao_kupper"]
        if not left_out["ties"]:
            sets.append("--set dpo.both_bad=tie")
        found.append(f"learn from ties: {' '.join(sets)}")
    return ", or ".join(found)


def case_of(record: Sample | Preference) -> Case:
    """Give the case that a clip or a pair is of."""
    return Case(id=record.case_id, prompt=record.prompt, references=record.references)


def _numbered(path: Path, model: type[R], unique: str) -> Iterator[tuple[str, R]]:
    """Read records with the place of each, such as prefs.jsonl:3."""
    place = ""

    def check(record: R, line: int) -> str | None:
        nonlocal place
        place = f"{path}:{line}"
        try:
            case_of(record)
        except ValidationError as error:  # a case asks for more than a sample or a pair: somebody who is shown
            return "; ".join(explain(detail, Case) for detail in error.errors())
        return one_clip_twice(record) if isinstance(record, Preference) else None

    for record in read_records(path, model, unique=unique, check=check):
        yield place, record


def preferred(pairs: Sequence[StoredPair], *, needed: bool = True) -> list[StoredClip]:
    """Take the clips that were preferred in more of their pairs than not; ties decide nothing.

    Raises DataError where no clip is left and some are needed.
    """
    balance: Counter[tuple[str, str]] = Counter()
    clips: dict[tuple[str, str], StoredClip] = {}
    for pair in (pair for pair in pairs if pair.label in (A, B)):
        sides = {"a": pair.a, "b": pair.b}
        won, lost = ("a", "b") if pair.label == A else ("b", "a")
        balance[sides[won].shown] += 1
        balance[sides[lost].shown] -= 1
        clips.setdefault(sides[won].shown, replace(sides[won], id=f"{pair.id}.{won}"))
    kept = [clip for shown, clip in clips.items() if balance[shown] > 0]
    if pairs and not kept:
        files = ", ".join(dict.fromkeys(pair.a.line.rpartition(":")[0] for pair in pairs))
        problem = f"{files}: in {len(pairs)} preferences no clip was preferred more often than not"
        if needed:
            raise DataError(problem, fix="give preferences that agree more, or learn from each of them: --method dpo")
        log.warning("%s: nothing is learnt from them", problem)
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


def check_files(clips: Sequence[StoredClip], max_references: int) -> None:
    """Refuse clips and photos that cannot be read, and more people than a base takes.

    Raises one DataError with file, line and field of the first twenty.
    """
    problems: dict[str, None] = {}
    for clip in clips:
        if (count := len(clip.case.references)) > max_references:
            problems[clip.wrong(f"{count} people, the base takes at most {max_references}", "references")] = None
        try:
            video_facts(str(clip.video))
        except DataError as error:
            problems[clip.wrong(error.message)] = None
        for place, reference in enumerate(clip.case.references):
            if problem := photo_problem(reference.images[0]):
                problems[clip.wrong(problem, f"references.{place}.images")] = None
    _raise(list(problems), "put the files back, or mend or take out these lines")


def clip_size(clips: Sequence[StoredClip], setting: SizeConfig) -> VideoSize:
    """Give the size that is trained at: what is set, the rest as the first clip has it.

    Raises one DataError with file, line and field of the first twenty clips of another size.
    """
    sizes = [VideoSize(facts.width, facts.height, facts.frames) for facts in (video_facts(str(c.video)) for c in clips)]
    width, height, frames = sizes[0]
    size = VideoSize(setting.width or width, setting.height or height, setting.frames or frames)
    problems = dict.fromkeys(
        clip.wrong(f"{clip.video} is {found}, this run trains at {size}")
        for clip, found in zip(clips, sizes, strict=True)
        if found != size
    )
    _raise(list(problems), ONE_SIZE)
    return size


def _raise(problems: Sequence[str], fix: str) -> None:
    if problems:
        more = f"\n  (and {len(problems) - MAX_ERRORS} more)" if len(problems) > MAX_ERRORS else ""
        raise DataError("\n".join(problems[:MAX_ERRORS]) + more, fix=fix)


def read_clip(clip: StoredClip, size: VideoSize) -> Tensor:
    """Read a clip uint8 [frame, 3, height, width]; DataError where it has another size."""
    pixels = _pixels(clip)
    found = VideoSize(pixels.shape[3], pixels.shape[2], pixels.shape[0])
    if found != size:
        _raise([clip.wrong(f"{clip.video} is {found}, this run trains at {size}")], ONE_SIZE)
    return pixels


def _pixels(clip: StoredClip) -> Tensor:
    try:
        return read_video(clip.video)
    except DataError as error:
        raise DataError(clip.wrong(error.message), fix=error.fix) from error


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
        score, case = found[clip.id], clip.who
        if score is not None and (case not in best or score > best[case][0]):
            best[case] = (score, clip)
    return [clip for _, clip in best.values()]


def _scores(clips: Sequence[StoredClip], scorer: RewardScorer, world: World) -> dict[str, float | None]:
    own = list(clips)[world.rank :: world.size]
    scores: dict[str, float | None] = {}
    with progress(len(own), "score clips", unit="clip", shown=world.is_main) as bar:
        for start in range(0, len(own), SCORED_AT_ONCE):
            part = own[start : start + SCORED_AT_ONCE]
            values = scorer.score(
                [_pixels(clip) for clip in part],
                [read_references(clip.case) for clip in part],
                [clip.case.prompt for clip in part],
            )
            total = combine_rewards(values, scorer.config.weights)
            scores |= {clip.id: float(v) if torch.isfinite(v) else None for clip, v in zip(part, total, strict=True)}
            bar.advance(len(part))
    return {name: value for rank in world.gather(scores) for name, value in rank.items()}

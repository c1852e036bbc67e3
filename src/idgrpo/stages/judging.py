"""Judges of `annotate --by judge`: which models judge, and a session with them that can be interrupted and goes on."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idgrpo.errors import UsageError
from idgrpo.stages.source import Source, find
from idgrpo.store import KINDS
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.annotate.config import JudgeConfig
    from idgrpo.annotate.judge import Judge, Question, Reply
    from idgrpo.records.models import Pair, Vote
    from idgrpo.reward.score import RewardModel

VOTES_SO_FAR = "votes.part.jsonl"


class RewardJudge:
    """A trained reward model as judge: the clip with the higher score, a tie up to its own threshold."""

    varies = False

    def __init__(self, model: "RewardModel", name: str):
        self.model, self.name = model, name

    def ask(self, question: "Question", num: int, seed: int) -> "Sequence[Reply]":
        """Score both clips. Errors: DataError if one cannot be scored."""
        from idgrpo.annotate.judge import Reply
        from idgrpo.errors import DataError

        photos = question.photos
        scores = self.model.score(
            [question.left, question.right], [photos, photos], [question.prompt, question.prompt], question.fps
        )
        for score in scores:
            if not isinstance(score, float):
                raise DataError(f"judge {self.name!r} cannot score a clip: {score.reason}")
        left, right = (float(score) for score in scores if isinstance(score, float))
        threshold = self.model.tie_threshold or 0.0
        answer = "tie" if abs(left - right) <= threshold else ("left" if left > right else "right")
        return [Reply(answer)] * num  # type: ignore[arg-type]


def find_judges(store: Store, given: Sequence[str]) -> dict[str, Source]:
    """Find each judge: a reward model of the store or a folder, or a vision-language checkpoint. Name -> where."""
    from idgrpo.reward.checkpoint import TINY_VLM, find_vlm

    if not given:
        raise UsageError(
            "--by judge needs to know who judges",
            fix="--judge rm (the newest reward model), or --judge DIRECTORY of a Qwen-VL checkpoint",
        )
    found: dict[str, Source] = {}
    for one in given:
        is_named = one.partition("@")[0].partition(":")[0].partition("/")[0] in KINDS and not Path(one).is_dir()
        if is_named or (Path(one) / "manifest.json").is_file():
            source = find(store, "rm", one)
            found[source.ref] = source
        else:
            folder = find_vlm(one).resolve()
            name = TINY_VLM if one == TINY_VLM else Path(one).name or folder.name
            found[name] = find(store, "rm", folder)
    if len(found) < len(given):
        raise UsageError("two judges have the same name", fix="name each once; folders are called by their last part")
    return found


def load_judges(found: Mapping[str, Source], config: "JudgeConfig") -> "list[Judge]":
    """Load the judges: a folder with a reward head scores, any other checkpoint generates."""
    from idgrpo.annotate.judge_vlm import VlmJudge
    from idgrpo.reward.model import CARD_FILE
    from idgrpo.reward.score import RewardModel

    judges: list[Judge] = []
    for name, source in found.items():
        if (source.path / CARD_FILE).is_file() or source.artifact is not None:
            judges.append(RewardJudge(RewardModel.load(source.path, device=_device(config)), name))
        else:
            judges.append(VlmJudge(source.path, config, name=name))
    return judges


def _device(config: "JudgeConfig") -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


def look(pair: "Pair") -> "Question":
    """Read the clips and photos of a pair, clip a on the left."""
    from idgrpo.annotate.judge import Question
    from idgrpo.video.probe import probe
    from idgrpo.video.read import read_image, read_video

    clips = [read_video(video) for video in (pair.video_a, pair.video_b)]
    photos = [read_image(reference.images[0]) for reference in pair.references]
    return Question(clips[0], clips[1], photos, pair.prompt, (probe(pair.video_a).fps, probe(pair.video_b).fps))


def judge_session(
    pairs: "Sequence[Pair]", judges: "Sequence[Judge]", config: "JudgeConfig", folder: Path, check: Callable[[], None]
) -> "list[Vote]":
    """Judge all pairs; those judged before an interruption are kept in `folder` and not judged again.

    `check` is called before each pair and may raise to stop.
    """
    from idgrpo.annotate.embedding import embedding_gap
    from idgrpo.annotate.judge import judge_votes, num_votes
    from idgrpo.people.load import load_finder
    from idgrpo.run.progress import progress

    gap = embedding_gap(load_finder(config.finder)) if config.finder else None
    file = folder / VOTES_SO_FAR
    done = _finished(file, num_votes(judges, config))
    with progress(len(pairs), "judging", "pairs") as bar, file.open("a", encoding="utf-8") as log:

        def begin(pair: "Pair") -> "Question":
            check()
            return look(pair)

        # Sides depend on a pair's position among all, so that going on gives what going through gives.
        for position, pair in enumerate(pairs):
            if pair.pair_id not in done:
                (votes,) = judge_votes([pair], judges, config, begin, gap=gap, start=position)
                log.write("".join(vote.model_dump_json() + "\n" for vote in votes))
                log.flush()
                os.fsync(log.fileno())
                done[pair.pair_id] = votes
            bar.advance()
    return [vote for pair in pairs for vote in done[pair.pair_id]]


def _finished(file: Path, num: int) -> "dict[str, list[Vote]]":
    """Read the votes of pairs judged whole, and cut off what a kill left of another."""
    from pydantic import ValidationError

    from idgrpo.records.models import Vote

    found: dict[str, list[Vote]] = {}
    for vote in _lines(file, Vote.model_validate_json, ValidationError):
        found.setdefault(vote.pair_id, []).append(vote)
    whole = {name: votes for name, votes in found.items() if len(votes) == num}
    if file.exists():
        draft = file.with_suffix(".tmp")
        draft.write_text(
            "".join(v.model_dump_json() + "\n" for votes in whole.values() for v in votes), encoding="utf-8"
        )
        os.replace(draft, file)
    return whole


def _lines(file: Path, parse: Callable[[str], "Vote"], error: type[Exception]) -> "Iterator[Vote]":
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else ():
        try:
            yield parse(line)
        except error:
            return

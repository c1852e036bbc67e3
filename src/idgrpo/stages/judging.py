"""Judges of `annotate --by judge`: which models judge, and a session with them that can be interrupted and goes on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from idgrpo.errors import UsageError
from idgrpo.run.dealing import Dealing
from idgrpo.stages.source import Source, find
from idgrpo.store import KINDS
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.annotate.config import JudgeConfig
    from idgrpo.annotate.judge import Judge, Question, Reply
    from idgrpo.records.models import Pair, Vote
    from idgrpo.reward.score import RewardModel

JUDGED = "judged"
"""In the run's folder: a file of votes for each pair."""


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
    pairs: "Sequence[Pair]",
    judges: "Sequence[Judge]",
    config: "JudgeConfig",
    folder: Path,
    check: Callable[[], None] = lambda: None,
    dealing: Dealing | None = None,
) -> "Iterator[Vote]":
    """Judge all pairs, then give the votes; the votes of a pair are a file in `folder`, and no pair is judged twice.

    `check` is called before each pair and may raise to stop. dealing: other processes that judge the same pairs.
    """
    from idgrpo.annotate.embedding import embedding_gap
    from idgrpo.annotate.judge import judge_votes
    from idgrpo.people.load import load_finder
    from idgrpo.records.jsonl import read_records, write_records
    from idgrpo.records.models import Vote

    gap = embedding_gap(load_finder(config.finder)) if config.finder else None
    (folder / JUDGED).mkdir(exist_ok=True)
    # Sides depend on a pair's position among all, so that any share of the pairs gives what going through gives.
    files = [folder / JUDGED / f"{position:07d}.jsonl" for position in range(len(pairs))]
    shared = (dealing or Dealing()).share(
        range(len(pairs)), str, lambda position: files[position].exists(), label="judging", unit="pairs", check=check
    )
    for position in shared:
        (votes,) = judge_votes([pairs[position]], judges, config, look, gap=gap, start=position)
        write_records(files[position], votes)
    return (vote for file in files for vote in read_records(file, Vote))

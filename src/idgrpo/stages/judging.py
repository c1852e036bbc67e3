"""Judges of `annotate --by judge`: which models judge, and a session with them that can be interrupted and goes on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from idgrpo.errors import UsageError
from idgrpo.plugins import Registry, load
from idgrpo.run.dealing import Dealing
from idgrpo.stages.rewards import SCHEMES, RewardSource, find_reward, is_function
from idgrpo.stages.source import Source, find
from idgrpo.store import KINDS
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.annotate.config import JudgeConfig
    from idgrpo.annotate.judge import Judge, Question, Reply
    from idgrpo.records.models import Pair, Vote
    from idgrpo.reward.score import Scores

JUDGED = "judged"
"""In the run's folder: a file of votes for each pair."""


class RewardJudge:
    """A reward as judge: the clip with the higher score; a tie up to the threshold that a reward model has."""

    varies = False

    def __init__(self, model: "Scores", name: str):
        self.model, self.name = model, name
        self.tie_threshold = float(getattr(model, "tie_threshold", None) or 0.0)

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
        answer = "tie" if abs(left - right) <= self.tie_threshold else ("left" if left > right else "right")
        return [Reply(answer)] * num  # type: ignore[arg-type]


JUDGES = Registry("idgrpo.judges", {})
"""Judges that installed packages bring: name -> function(JudgeConfig) -> `annotate.judge.Judge`."""


@dataclass(frozen=True)
class JudgeSource:
    """Who judges: a vision-language checkpoint, a reward, or a judge of an installed package; `pin` decides its answers."""

    name: str
    checkpoint: Source | None = None
    reward: RewardSource | None = None
    target: str | None = None
    pin: str = ""

    @property
    def source(self) -> Source | None:
        """The folder or artifact it comes from, if it comes from one."""
        return self.reward.source if self.reward is not None else self.checkpoint

    def load(self, config: "JudgeConfig") -> "Judge":
        """Make the judge on the device of the settings."""
        from idgrpo.annotate.judge_vlm import VlmJudge

        if self.target is not None:
            return load(self.target, "the judge")(config)
        if self.reward is not None:
            return RewardJudge(self.reward.load(_device(config), finder=config.finder), self.name)
        assert self.checkpoint is not None
        return VlmJudge(self.checkpoint.path, config, name=self.name)


def find_judges(store: Store, given: Sequence[str]) -> list[JudgeSource]:
    """Find each judge: a reward (any source that `--reward` takes), a vision-language checkpoint, or an installed judge."""
    if not given:
        raise UsageError(
            "--by judge needs to know who judges",
            fix="--judge rm (the newest reward model), or --judge DIRECTORY of a Qwen-VL checkpoint",
        )
    found = [_find_judge(store, one) for one in given]
    if len({one.name for one in found}) < len(found):
        raise UsageError("two judges have the same name", fix="name each once; folders are called by their last part")
    return found


def _find_judge(store: Store, one: str) -> JudgeSource:
    from idgrpo.evaluate.measure import known_measures
    from idgrpo.reward.checkpoint import TINY_VLM, find_vlm
    from idgrpo.reward.functions import REWARDS, digest_of
    from idgrpo.reward.model import CARD_FILE

    if one in JUDGES:
        return JudgeSource(one, target=JUDGES[one], pin=digest_of(JUDGES[one]))
    is_named = one.partition("@")[0].partition(":")[0].partition("/")[0] in KINDS and not Path(one).is_dir()
    if is_named or (Path(one) / "manifest.json").is_file():
        reward = find_reward(store, "judge", one)
        return JudgeSource(reward.text, reward=reward)
    if one.startswith(SCHEMES) or one in known_measures() or one in REWARDS or is_function(one):
        reward = find_reward(store, "judge", one)
        name = f"service-{reward.pin[-12:]}" if reward.kind == "service" else one.replace(":", ".")
        return JudgeSource(name, reward=reward, pin=reward.pin)
    folder = find_vlm(one).resolve()
    name = TINY_VLM if one == TINY_VLM else Path(one).name or folder.name
    if (folder / CARD_FILE).is_file():
        return JudgeSource(name, reward=find_reward(store, "judge", str(folder)))
    return JudgeSource(name, checkpoint=find(store, "rm", folder))


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

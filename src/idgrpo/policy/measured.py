"""Identity measures of the evaluation room in training: as rewards of a rollout, and on held-out cases between updates."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from idgrpo.bases.conditions import ConditionsCache, read_references
from idgrpo.bases.contract import Base, VideoSize
from idgrpo.bases.generate import jobs_of
from idgrpo.bases.sampling import sample_to_folder
from idgrpo.errors import DataError
from idgrpo.evaluate.config import EvaluateConfig, FindingConfig
from idgrpo.evaluate.copies import photo_prints
from idgrpo.evaluate.evaluate import evaluate
from idgrpo.evaluate.measure import load_measure
from idgrpo.evaluate.observe import observe
from idgrpo.evaluate.subject import Subject
from idgrpo.people.contract import Finder, levels_of
from idgrpo.people.load import load_finder
from idgrpo.policy.config import EvaluationConfig, PolicyRewardConfig
from idgrpo.policy.groups import CaseBook
from idgrpo.policy.scoring import RewardFunction
from idgrpo.records.models import Case
from idgrpo.reward.inputs import FrameRates, References, SeenClip, Videos
from idgrpo.reward.score import RewardFailure, Score
from idgrpo.run.distributed import World

log = logging.getLogger(__name__)


class MeasuredRewards:
    """Gives one reward function per measure; a clip is looked at once for all of them.

    Training on a measure makes it worthless as evidence: evaluate with another finder, or leave it out of the reward.
    """

    def __init__(self, finder: Finder, names: Mapping[str, str], config: FindingConfig | None = None):
        """Load the measures: `names` maps what a reward is called to the name or import string of its measure."""
        self.finder, self.config = finder, config or FindingConfig()
        self.measures = {name: load_measure(target) for name, target in names.items()}
        self._seen: tuple[list[Tensor], list[Subject | None]] = ([], [])

    def rewards(self) -> dict[str, RewardFunction]:
        """Give the reward functions by name."""
        return {name: self._reward(name) for name in self.measures}

    def _reward(self, name: str) -> RewardFunction:
        def reward(videos: list[Tensor], references: list[list[Tensor]], prompts: list[str]) -> Sequence[float | None]:
            subjects = self._subjects(videos, references)
            return [None if subject is None else self.measures[name](subject) for subject in subjects]

        return reward

    def _subjects(self, videos: list[Tensor], references: list[list[Tensor]]) -> list[Subject | None]:
        if len(videos) != len(self._seen[0]) or any(a is not b for a, b in zip(videos, self._seen[0], strict=True)):
            made = [self._subject(video, images) for video, images in zip(videos, references, strict=True)]
            self._seen = (list(videos), made)
        return self._seen[1]

    def _subject(self, video: Tensor, images: list[Tensor]) -> Subject | None:
        """Give None where a reference shows nobody: a failure, never a number."""
        try:
            embedded = np.stack([self.finder.embed_reference(image) for image in images])
        except DataError:
            return None
        seen = observe(video, self.finder, self.config)
        return Subject(
            seen,
            embedded,
            min_track_share=self.config.min_track_share,
            levels=levels_of(self.finder),
            prints=tuple(photo_prints(image, self.finder) for image in images) if seen.print.any() else (),
        )


class MeasureScores:
    """Score clips by one measure, such as a judge does; where lower is better, the score is the negative."""

    tie_threshold = 0.0

    def __init__(self, name: str, finder: str, device: str = "cpu"):
        options = {"device": device} if device != "cpu" else {}
        measured = MeasuredRewards(load_finder(finder, **options), {name: name})
        self._reward = measured.rewards()[name]
        self._sign = -1.0 if measured.measures[name].info.better == "lower" else 1.0

    def score(
        self, videos: Videos, references: References, prompts: Sequence[str], fps: FrameRates = None
    ) -> list[Score]:
        """Give a number per clip, or why there is none."""
        clips = [video.frames if isinstance(video, SeenClip) else video for video in videos]
        values = self._reward(clips, [list(photos) for photos in references], list(prompts))
        return [
            self._sign * float(value) if isinstance(value, int | float) else RewardFailure("not defined for this clip")
            for value in values
        ]


def rewards_of(
    scores: RewardFunction | Mapping[str, RewardFunction], config: PolicyRewardConfig
) -> RewardFunction | dict[str, RewardFunction]:
    """Put the measures that the settings ask for beside the other rewards; a reward model alone is called `rm` then."""
    if not config.measured:
        return scores if callable(scores) else dict(scores)
    named = {"rm": scores} if callable(scores) else dict(scores)
    measured = MeasuredRewards(load_finder(config.finder), config.measured)
    return named | measured.rewards()


class HeldOut:
    """Measures cases that nobody trains on: called with the published weights in place, on every rank, it samples and judges.

    Videos stay in folder/update-000020/ for people to look at. Ranks share the cases out; the main one finds the people.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        training: Sequence[Case],
        folder: Path,
        *,
        config: EvaluationConfig,
        size: VideoSize,
        world: World | None = None,
        cache: ConditionsCache | None = None,
        finder: Finder | None = None,
    ):
        """Prepare; size: of the clips, where `evaluation.sampler` names none. finder: in place of the one that is set.

        Raises DataError when a case is also trained on.
        """
        shared = {case.id for case in cases} & {case.id for case in training}
        if shared:
            raise DataError(
                f"{len(shared)} held-out cases are trained on as well, e.g. {', '.join(sorted(shared)[:3])}",
                fix="give other cases, of other people, to --eval-cases",
            )
        self.cases, self.folder, self.config, self.cache = list(cases), folder, config, cache
        self.world = world or World()
        asked = config.sampler
        self.sampler = asked.model_copy(
            update={name: getattr(asked, name) or getattr(size, name) for name in ("width", "height", "frames")}
        )
        self._finder = finder

    @property
    def finder(self) -> Finder:
        """The finder, made at first use: only the main rank looks."""
        if self._finder is None:
            options = {} if self.config.device is None else {"device": self.config.device}
            self._finder = load_finder(self.config.finder, **options)
        return self._finder

    def prepare(self, base: Base) -> None:
        """Leave out cases with a photo in which the finder sees nobody, and encode the others while the encoders are here.

        Raises DataError where no case is left.
        """
        kept = [case.id for case in self.cases if self._is_seen(case)] if self.world.is_main else []
        kept = self.world.gather(kept)[0]
        if not kept:
            raise DataError(
                f"the finder {self.config.finder} sees nobody in the photos of any held-out case",
                fix="give photos of faces, or another evaluation.finder",
            )
        self.cases = [case for case in self.cases if case.id in set(kept)]
        if self.cache is not None:
            CaseBook(base, self.cases, self.sampler.size(base.entry), self.cache).encode_all(self.world)

    def _is_seen(self, case: Case) -> bool:
        try:
            for photo in read_references(case):
                self.finder.embed_reference(photo)
        except DataError as error:
            log.warning("held-out case '%s' is left out: %s", case.id, error.message)
            return False
        return True

    def __call__(self, base: Base, update: int) -> dict[str, float]:
        """Sample every case with one seed and give the means of all measures; nothing on ranks that only sample."""
        own = self.cases[self.world.rank :: self.world.size]
        folder = self.folder / f"update-{update:06d}"
        if self.world.size > 1:
            folder /= f"rank-{self.world.rank}"
        jobs = jobs_of(own, seed=self.config.seed, num_per_case=1)
        made = sample_to_folder(base, jobs, folder, sampler=self.sampler, cache=self.cache) if jobs else []
        samples = [sample for part in self.world.gather(made) for sample in part]
        if not self.world.is_main:
            return {}
        samples.sort(key=lambda sample: (sample.case_id, sample.seed))
        report = evaluate({"now": samples}, self.finder, EvaluateConfig(), finder_name=self.config.finder)
        return {name: figure.value for name, figure in report.means["now"].items()} | {"num_cases": len(samples)}

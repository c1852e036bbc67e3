"""The demo's test of the reward model: people it has never seen, the oracle's noise-free order."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Preference, Reference, Sample
from idgrpo.stages import Artifact

TIE_MARGIN = 0.02
"""Difference of the oracle's quality below which nobody sees one."""


def test_figures(reward: Artifact, damaged: Artifact, generated: Sequence[Artifact]) -> dict[str, Any]:
    """Return accuracies on decided pairs: of distortions (also by kind), of generated clips, and of their clearer half."""
    scores = ClipScores.of(reward)
    right = damaged_pairs(damaged, scores)
    gaps = [pair for pair in generated_pairs(generated, scores) if abs(pair[0]) > TIE_MARGIN]
    gaps.sort(key=lambda pair: -abs(pair[0]))
    everything = [value for values in right.values() for value in values]
    return {
        "rm_accuracy_decided": _mean(everything),
        "rm_accuracy_by_distortion": {kind: _mean(values) for kind, values in sorted(right.items())},
        "rm_accuracy_generated": accuracy_beyond(gaps, TIE_MARGIN),
        "rm_accuracy_generated_clearer_half": accuracy_beyond(gaps[: len(gaps) // 2], TIE_MARGIN),
        "num_distortion_pairs": len(everything),
        "num_generated_pairs": len(gaps),
    }


class ClipScores:
    """ClipScores by video and people, each clip scored once (mirrored pairs ask the same clip about other people)."""

    def __init__(self, model: Any):
        self.model = model
        self.known: dict[tuple[str, tuple[str, ...]], float] = {}

    @classmethod
    def of(cls, reward: Artifact) -> "ClipScores":
        """Load a reward model."""
        from idgrpo.reward.score import RewardModel

        return cls(RewardModel.load(reward.path))

    def add(self, clips: Iterable[tuple[str, list[Reference], str]]) -> None:
        from idgrpo.video.read import read_image, read_video

        wanted = {(video, _people(references)): (references, prompt) for video, references, prompt in clips}
        keys = [key for key in wanted if key not in self.known]
        for first in range(0, len(keys), 256):
            part = keys[first : first + 256]
            videos = [read_video(Path(video)) for video, _ in part]
            photos = [[read_image(Path(r.images[0])) for r in wanted[key][0]] for key in part]
            values = self.model.score(videos, photos, [wanted[key][1] for key in part])
            self.known.update(zip(part, values, strict=True))

    def __getitem__(self, key: tuple[str, list[Reference]]) -> float:
        return self.known[key[0], _people(key[1])]


def _people(references: list[Reference]) -> tuple[str, ...]:
    return tuple(image for reference in references for image in reference.images[:1])


def damaged_pairs(damaged: Artifact, scores: ClipScores) -> dict[str, list[float]]:
    """Return by distortion whether each decided pair is ordered as labelled: 1, 0, or 0.5 for equal scores."""
    pairs = [p for p in read_records(damaged.file("prefs.jsonl"), Preference) if p.label in ("a", "b")]
    scores.add((video, p.references, p.prompt) for p in pairs for video in (p.video_a, p.video_b))
    right: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        difference = scores[pair.video_a, pair.references] - scores[pair.video_b, pair.references]
        right[pair.distortion or "?"].append(_right(difference, pair.label == "a"))
    return right


def generated_pairs(generated: Sequence[Artifact], scores: ClipScores) -> list[tuple[float, float]]:
    """Return (oracle's gap, reward's difference) of every two clips of one case and base."""
    from idgrpo.tinyworld.oracle import quality

    found = []
    for artifact in generated:
        by_case: dict[str, list[tuple[float, float]]] = defaultdict(list)
        samples = list(read_records(artifact.file("samples.jsonl"), Sample))
        scores.add((sample.video, sample.references, sample.prompt) for sample in samples)
        for sample in samples:
            truth = quality(sample.video, tuple(reference.person for reference in sample.references))
            by_case[sample.case_id].append((truth, scores[sample.video, sample.references]))
        for clips in by_case.values():
            found += [(a[0] - b[0], a[1] - b[1]) for a, b in combinations(clips, 2)]
    return found


def accuracy_beyond(pairs: Sequence[tuple[float, float]], margin: float) -> float | None:
    """Return the share of pairs (oracle's gap, reward's difference) beyond a margin that both order alike."""
    return _mean([_right(difference, gap > 0) for gap, difference in pairs if abs(gap) > margin])


def _right(difference: float, a_is_better: bool) -> float:
    return 0.5 if difference == 0 else float((difference > 0) == a_is_better)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None

"""The demo's test of the reward model: people it has never seen, the oracle's noise-free order."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from idgrpo.cli.demo_plan import TIE_MARGIN
from idgrpo.records.jsonl import read_records
from idgrpo.records.preference import Preference
from idgrpo.records.reference import Reference
from idgrpo.records.sample import Sample
from idgrpo.store.store import Store


def test_figures(store: Store, reward: str, damaged: str, generated: list[str]) -> dict[str, Any]:
    """Return accuracies on decided pairs: of distortions (also by kind), of generated clips, and of their clearer half."""
    from idgrpo.reward.score import RewardModel

    model = RewardModel.load(store.resolve(reward).path)
    scores = _Scores(model)
    pairs = [p for p in read_records(store.resolve(damaged).file("prefs.jsonl"), Preference) if p.label in ("a", "b")]
    scores.add((video, p.references, p.prompt) for p in pairs for video in (p.video_a, p.video_b))
    right: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        right[pair.distortion or "?"].append(
            _right(scores[pair.video_a, pair.references] - scores[pair.video_b, pair.references], pair.label == "a")
        )
    gaps = _generated_gaps(store, generated, scores)
    gaps.sort(key=lambda item: -abs(item[0]))
    correct = [_right(difference, gap > 0) for gap, difference in gaps]
    everything = [value for values in right.values() for value in values]
    return {
        "rm_accuracy_decided": _mean(everything),
        "rm_accuracy_by_distortion": {kind: _mean(values) for kind, values in sorted(right.items())},
        "rm_accuracy_generated": _mean(correct),
        "rm_accuracy_generated_clearer_half": _mean(correct[: len(correct) // 2]),
        "num_distortion_pairs": len(everything),
        "num_generated_pairs": len(correct),
    }


class _Scores:
    """Scores by video and people, each clip scored once (mirrored pairs ask the same clip about other people)."""

    def __init__(self, model: Any):
        self.model = model
        self.known: dict[tuple[str, tuple[str, ...]], float] = {}

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


def _generated_gaps(store: Store, generated: list[str], scores: _Scores) -> list[tuple[float, float]]:
    """Return (oracle's gap, reward's difference) of every pair of clips of one case and base beyond the tie margin."""
    from idgrpo.tinyworld.oracle import identity_by_template
    from idgrpo.video.read import read_video

    found = []
    for ref in generated:
        by_case: dict[str, list[Sample]] = defaultdict(list)
        for sample in read_records(store.resolve(ref).file("samples.jsonl"), Sample):
            by_case[sample.case_id].append(sample)
        everyone = [sample for samples in by_case.values() for sample in samples]
        scores.add((sample.video, sample.references, sample.prompt) for sample in everyone)
        truth = identity_by_template([read_video(Path(s.video)) for s in everyone], [s.references for s in everyone])
        quality = {sample.id: sum(values) / len(values) for sample, values in zip(everyone, truth, strict=True)}
        for samples in by_case.values():
            for index, a in enumerate(samples):
                for b in samples[index + 1 :]:
                    gap = quality[a.id] - quality[b.id]
                    if abs(gap) > TIE_MARGIN:
                        found.append((gap, scores[a.video, a.references] - scores[b.video, b.references]))
    return found


def _right(difference: float, a_is_better: bool) -> float:
    return 0.5 if difference == 0 else float((difference > 0) == a_is_better)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None

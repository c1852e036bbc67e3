"""Small records for the tests of the annotate room."""

from collections.abc import Callable
from pathlib import Path

import pytest

from idgrpo.records.models import Pair, Reference, Sample, Vote


@pytest.fixture
def references() -> list[Reference]:
    return [Reference(person="p1", images=["one.png"]), Reference(person="p2", images=["two.png"])]


@pytest.fixture
def make_pair(references: list[Reference]) -> Callable[..., Pair]:
    def make(name: str) -> Pair:
        return Pair(
            pair_id=name,
            case_id=f"case-{name}",
            prompt="two people walk",
            references=references,
            video_a=f"{name}-a.mp4",
            video_b=f"{name}-b.mp4",
        )

    return make


@pytest.fixture
def make_sample(references: list[Reference]) -> Callable[..., Sample]:
    def make(case: str, seed: int, base: str = "tiny-vace", policy: str | None = None) -> Sample:
        name = f"{case}-{base}-{policy or 'base'}-{seed}"
        return Sample(
            id=name,
            case_id=case,
            prompt="two people walk",
            references=references,
            video=f"{name}.mp4",
            base=base,
            policy=policy,
            seed=seed,
            sampler={},
        )

    return make


@pytest.fixture
def make_vote() -> Callable[..., Vote]:
    def make(
        pair: str, annotator: str, answer: str, kind: str = "plain", a_is_left: bool = True, seconds: float = 8.0
    ) -> Vote:
        sides = {"a": "left" if a_is_left else "right", "b": "right" if a_is_left else "left"}
        return Vote(
            vote_id=f"{annotator}.{pair}.{kind}",
            pair_id=pair,
            annotator=annotator,
            answer=answer,
            shown=sides.get(answer, answer),
            a_is_left=a_is_left,
            seconds=seconds,
            kind=kind,
            time_utc="2026-11-23T00:00:00+00:00",
        )

    return make


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with two playable clips, one that browsers refuse, and a portrait."""
    import torch

    from idgrpo.video.write import write_image, write_video

    folder = tmp_path / "clips"
    folder.mkdir()
    frames = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video(folder / "one.mp4", frames)
    write_video(folder / "two.mp4", frames.flip(0))
    write_video(folder / "lossless.mp4", frames, lossless=True)
    write_image(folder / "face.png", frames[0])
    return folder


@pytest.fixture
def clip_pairs(clips: Path) -> Callable[[int], list[Pair]]:
    def make(num: int) -> list[Pair]:
        references = [Reference(person="p1", images=[str(clips / "face.png")])]
        return [
            Pair(
                pair_id=f"pair-{i}",
                case_id=f"secret-generator-{i}",
                prompt="one walks",
                references=references,
                video_a=str(clips / "one.mp4"),
                video_b=str(clips / "two.mp4"),
                origin={"a": {"base": "vace"}, "b": {"base": "phantom"}},
            )
            for i in range(num)
        ]

    return make

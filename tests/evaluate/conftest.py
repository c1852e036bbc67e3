"""A finder with planted people: a clip carries a number in its pixels, the number names who is seen where."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from idgrpo.evaluate.config import FindingConfig
from idgrpo.evaluate.observe import assemble
from idgrpo.evaluate.subject import Subject
from idgrpo.people.contract import Detection

NUM_FRAMES = 12
SIZE_PX = 64
DIMENSIONS = 8
LEFT, RIGHT = (8.0, 20.0), (40.0, 20.0)  # top left corners of two places

Sight = tuple[float, float, np.ndarray] | tuple[float, float, np.ndarray, float]  # x, y, who[, side]


def person(number: int, *, photo: int = 0) -> np.ndarray:
    """Give the unit embedding of a person; another photo of the same person has cosine 0.8 with the first."""
    vector = np.eye(DIMENSIONS)[number]
    return vector if photo == 0 else 0.8 * vector + 0.6 * np.eye(DIMENSIONS)[DIMENSIONS - 1 - photo]


def mixed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Blend two people half and half."""
    return (first + second) / np.linalg.norm(first + second)


def sighting(frame: int, sight: Sight) -> Detection:
    x, y, who, *rest = sight
    side = rest[0] if rest else 14.0
    return Detection(frame, (x, y, x + side, y + side), 0.9, np.asarray(who, np.float32))


def frames_of(script: Callable[[int], Sequence[Sight]], num_frames: int = NUM_FRAMES) -> list[list[Detection]]:
    """Turn `frame -> sights` into detections."""
    return [[sighting(frame, sight) for sight in script(frame)] for frame in range(num_frames)]


@pytest.fixture(scope="session")
def make_subject() -> Callable[..., Subject]:
    """Build a subject from a script of sights, references and, if need be, second photos and wrong references."""
    clip = torch.zeros(NUM_FRAMES, 3, SIZE_PX, SIZE_PX, dtype=torch.uint8)

    def make(script, references, second=None, wrong=(), clip=clip, levels=None) -> Subject:
        observation = assemble(clip, frames_of(script, len(clip)), FindingConfig(), fps=16.0)
        photos = None if second is None else np.stack(second)
        return Subject(observation, np.stack(references), photos, tuple(wrong), levels=levels)

    return make


A, B, STRANGER = person(0), person(1), person(2)


def faithful(frame: int):
    return [(*LEFT, A), (*RIGHT, B)]


SCRIPTS: dict[str, Callable[[int], Sequence[Sight]]] = {
    "faithful": faithful,
    "missing person": lambda f: [(*LEFT, A)],
    "swapped halves": lambda f: [(*LEFT, A if f < 6 else B), (*RIGHT, B if f < 6 else A)],
    "duplicate": lambda f: [(*LEFT, A), (*RIGHT, A)],
    "extra stranger": lambda f: [*faithful(f), (24.0, 44.0, STRANGER)],
    "crossing": lambda f: [(6.0 + 3 * f, 20.0, A), (39.0 - 3 * f, 22.0, B)],
    "blend": lambda f: [(*LEFT, mixed(A, B)), (*RIGHT, mixed(A, B))],
    "replaced": lambda f: [(*LEFT, A), (*RIGHT, STRANGER)],
    "one face for half": lambda f: faithful(f) if f < 6 else [(*LEFT, A)],
    "nobody": lambda f: [],
}


@pytest.fixture(scope="session")
def subjects(make_subject) -> dict[str, Subject]:
    """One subject per counter-example, all with references A and B and a stranger pair as wrong references."""
    wrong = [np.stack([person(3), person(4)])]
    return {name: make_subject(script, [A, B], wrong=wrong) for name, script in SCRIPTS.items()}


NAMES = list(SCRIPTS)
GREY_STEP = 16  # far more than what H.264 changes


class PlantedFinder:
    """Reads the number of a script from a clip's grey level, and a person from a portrait's."""

    def __init__(self, die_after: int | None = None):
        self.die_after = die_after
        self.num_clips = 0
        self.num_portraits = 0

    def fingerprint(self) -> str:
        return "planted"

    def find(self, clip: torch.Tensor) -> list[list[Detection]]:
        if self.num_clips == self.die_after:
            raise KeyboardInterrupt
        self.num_clips += 1
        number = round(float(clip[:, :, :8, :8].float().mean()) / GREY_STEP) - 1
        return frames_of(SCRIPTS[NAMES[number]], len(clip))

    def embed_reference(self, image: torch.Tensor) -> np.ndarray:
        self.num_portraits += 1
        number = round(float(image.float().mean()) / GREY_STEP) - 1
        return person(number % 8, photo=number // 8)


def planted_clip(name: str, seed: int, *, still: bool = False, num_frames: int = NUM_FRAMES) -> torch.Tensor:
    """Draw a clip that PlantedFinder reads as script `name`; a soft blob moves through its lower half."""
    clip = torch.full((num_frames, 3, SIZE_PX, SIZE_PX), GREY_STEP * (NAMES.index(name) + 1), dtype=torch.float32)
    rows = torch.arange(SIZE_PX).view(-1, 1).float()
    columns = torch.arange(SIZE_PX).float()
    for frame in range(num_frames):
        x = 16 + seed % 7 + (0 if still else 2 * frame)
        clip[frame, seed % 3] += 120 * torch.exp(-((rows - 44) ** 2 + (columns - x) ** 2) / 60)
    return clip.clamp(0, 255).to(torch.uint8)


@pytest.fixture
def make_samples(tmp_path):
    """Write videos and portraits; gives samples of one variant: one per (case number, script name)."""
    from idgrpo.records.models import Reference, Sample
    from idgrpo.video.write import write_image, write_video

    def portrait(number: int) -> str:
        path = tmp_path / f"portrait-{number}.png"
        if not path.exists():
            write_image(path, torch.full((3, 16, 16), GREY_STEP * (number + 1), dtype=torch.uint8))
        return str(path)

    def make(
        variant: str, scripts: Sequence[str], *, seed: int = 0, policy: str | None = None, still: bool = False
    ) -> list[Sample]:
        samples = []
        for case, name in enumerate(scripts):
            path = tmp_path / variant / f"{case:03d}-{seed}.mp4"
            path.parent.mkdir(exist_ok=True)
            write_video(path, planted_clip(name, case, still=still), fps=16)
            # Persons are named per case, so that each case may lend its references to others as wrong ones.
            people = [
                Reference(person=f"{who}-{case}", images=[portrait(k)], second=[portrait(k + 8)])
                for k, who in enumerate("ab")
            ]
            samples.append(
                Sample(
                    id=f"{variant}-{case}-{seed}", case_id=f"case-{case:03d}", prompt=f"two people, number {case}",
                    references=people, video=str(path), base="planted", policy=policy, seed=seed, sampler={},
                )
            )  # fmt: skip
        return samples

    return make

"""A few true clips of the embedded world, and a made-up video of two coloured faces before a still background."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from idgrpo.people.contract import Detection
from idgrpo.records.models import Sample
from idgrpo.tinyworld.cases import make_cases, write_cases, write_true_samples
from idgrpo.video.write import write_image, write_video

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_samples(tmp_path_factory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("tiny")
    return write_true_samples(folder, write_cases(folder, make_cases(6, seed=3)))


FACES = {"red": (200, 60, 60), "blue": (60, 80, 200), "green": (70, 170, 80), "gold": (210, 180, 60)}
FACE_PX = 24


def face_place(slot: int, frame: int, num_frames: int) -> tuple[int, int]:
    """Say where the middle of a face is (x, y): slot 0 goes right, slot 1 goes left, at different heights."""
    share = frame / (num_frames - 1)
    return (round(24 + 96 * share), 30) if slot == 0 else (round(120 - 96 * share), 66)


def face_clip(
    names: tuple[str, ...], num_frames: int = 16, seed: int = 0, size: tuple[int, int] = (96, 144)
) -> torch.Tensor:
    """Draw moving discs with darker eyes over a still texture: uint8 [frame, 3, height, width]."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(100, 150, (1, 3, 6, 9)).astype(np.float32))
    ground = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0]
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    frames = []
    for t in range(num_frames):
        frame = ground.clone()
        for slot, name in enumerate(names):
            x, y = face_place(slot, t, num_frames)
            inside = ((columns - x) ** 2 + (rows - y) ** 2).float().sqrt() < FACE_PX / 2
            shade = 1 - 0.2 * (rows - y).float() / FACE_PX
            for c in range(3):
                frame[c] = torch.where(inside, FACES[name][c] * shade, frame[c])
            for side in (-1, 1):
                eye = ((columns - x - side * 5) ** 2 + (rows - y + 3) ** 2) < 5
                frame[:, eye] = 20
        frames.append(frame)
    return torch.stack(frames).round().clamp(0, 255).to(torch.uint8)


class DiscFinder:
    """Find the discs by colour; embed by colour. A finder whose answers are known."""

    covers = "face"

    def find(self, clip: torch.Tensor) -> list[list[Detection]]:
        return [self._found(frame, t) for t, frame in enumerate(clip.float())]

    def _found(self, frame: torch.Tensor, t: int) -> list[Detection]:
        found = []
        for color in FACES.values():
            wanted = torch.tensor(color, dtype=torch.float32)[:, None, None]
            # Shading keeps the ratio of the channels.
            ratio = frame / frame.sum(0).clamp(min=1) - wanted / wanted.sum()
            rows, columns = torch.nonzero(ratio.abs().amax(0) < 0.03, as_tuple=True)
            if len(rows) > 150:
                x, y = float(columns.float().median()) + 0.5, float(rows.float().median()) + 0.5
                half = FACE_PX / 2
                look = np.array(color, np.float64) - 110
                found.append(Detection(t, (x - half, y - half, x + half, y + half), 0.99, look / np.linalg.norm(look)))
        return found

    def embed_reference(self, image: torch.Tensor) -> np.ndarray:
        middle = image.float().mean((1, 2)).double().numpy() - 110
        return middle / np.linalg.norm(middle)


def make_disc_finder() -> DiscFinder:
    return DiscFinder()


@pytest.fixture
def disc_finder():
    return DiscFinder()


@pytest.fixture
def disc_clip() -> torch.Tensor:
    return face_clip(("red", "blue"))


@pytest.fixture(scope="session")
def disc_samples(tmp_path_factory) -> list[Sample]:
    """Write three videos of two discs each, as recorded videos with references."""
    folder = tmp_path_factory.mktemp("discs")
    samples = []
    for index, names in enumerate((("red", "blue"), ("green", "gold"), ("gold", "red"))):
        references = []
        for name in names:
            path = folder / f"{name}.png"
            if not path.exists():
                flat = torch.tensor(FACES[name], dtype=torch.uint8)[:, None, None].expand(3, 16, 16)
                write_image(path, flat.contiguous())
            references.append({"person": name, "images": [str(path)]})
        video = folder / f"walk-{index}.mp4"
        write_video(video, face_clip(names, seed=index), lossless=True)
        samples.append(
            Sample(
                id=f"walk-{index}",
                case_id=f"walk-{index}",
                prompt="two people walk",
                references=references,
                video=str(video),
                base="recorded",
                policy=None,
                seed=0,
            )
        )
    return samples


@pytest.fixture
def disc_finder_factory():
    return make_disc_finder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def files_of():
    """Read a folder: `files_of(folder)` gives bytes by relative path."""
    return tree

"""Moving boxes with embeddings, as a finder would give them, with faults on demand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from idgrpo.people.contract import Detection


def _unit(rng: np.random.Generator, size: int = 16) -> np.ndarray:
    vector = rng.normal(size=size)
    return vector / np.linalg.norm(vector)


def _walk(
    paths: list[Callable[[int], tuple[float, float]]],
    num_frames: int,
    looks: list[np.ndarray | None],
    side: float = 20.0,
    hidden: set[tuple[int, int]] = frozenset(),
    noise_px: float = 0.5,
    seed: int = 0,
) -> tuple[list[list[Detection]], list[list[int]]]:
    """Give detections in a drawn order per frame, and who each of them really is; `hidden` holds (frame, person)."""
    rng = np.random.default_rng(seed)
    frames, truth = [], []
    for frame in range(num_frames):
        order = [int(k) for k in rng.permutation(len(paths)) if (frame, int(k)) not in hidden]
        found = []
        for person in order:
            x, y = np.array(paths[person](frame)) + rng.normal(0, noise_px, 2)
            look = looks[person]
            if look is not None:
                look = look + rng.normal(0, 0.08, look.shape)
                look = look / np.linalg.norm(look)
            found.append(Detection(frame, (x - side / 2, y - side / 2, x + side / 2, y + side / 2), 0.99, look))
        frames.append(found)
        truth.append(order)
    return frames, truth


@pytest.fixture
def people_of():
    """Say which people each track holds: a set per track."""

    def tell(tracks, frames, truth):
        held = []
        for track in tracks:
            held.append(
                {
                    truth[frame][next(k for k, d in enumerate(frames[frame]) if d is detection)]
                    for frame, detection in track.detections.items()
                }
            )
        return held

    return tell


@pytest.fixture
def unit():
    """Draw a unit vector: `unit(rng)`."""
    return _unit


@pytest.fixture
def walk():
    """Make detections: `walk(paths, num_frames, looks, ...)` gives (detections per frame, who they are)."""
    return _walk


class PixelEmbedder:
    """Embed a crop by its coarse colours: enough to tell two given photographs apart, no measure of identity."""

    crop_size = 32

    def embed(self, crops: torch.Tensor) -> np.ndarray:
        small = torch.nn.functional.adaptive_avg_pool2d(crops.float(), 8).flatten(1)
        small = small - small.mean(1, keepdim=True)
        return torch.nn.functional.normalize(small, dim=1).numpy()


@pytest.fixture
def pixel_embedder():
    return PixelEmbedder()


@pytest.fixture(scope="session")
def photographs() -> list[torch.Tensor]:
    """Give two public-domain portraits that ship inside packages: E. Collins (scikit-image) and G. Hopper (matplotlib)."""
    skimage_data = pytest.importorskip("skimage.data")
    import matplotlib.cbook

    collins = skimage_data.astronaut()[:260, 90:350]
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        hopper = np.asarray(Image.open(file).convert("RGB"))[20:330, 110:420]
    sized = []
    for photo in (collins, hopper):
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float()[None]
        small = torch.nn.functional.interpolate(pixels, size=(110, 110), mode="bilinear", antialias=True)
        sized.append(small[0].round().to(torch.uint8))
    return sized


@pytest.fixture(scope="session")
def crossing_clip(photographs) -> torch.Tensor:
    """Move the two portraits across each other over a textured ground, one high, one low: uint8 [20, 3, 240, 320]."""
    return make_crossing(photographs)


def make_crossing(photographs: list[torch.Tensor], num_frames: int = 20, gap_px: int = 112) -> torch.Tensor:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(90, 160, size=(1, 3, 8, 10)).astype(np.float32))
    ground = torch.nn.functional.interpolate(coarse, size=(240, 320), mode="bicubic", align_corners=False)[0]
    rows = (torch.arange(110) - 54.5) / 55
    soft = ((1 - (rows[:, None] ** 2 + rows[None] ** 2).sqrt()) / 0.08).clamp(0, 1)
    frames = []
    for t in range(num_frames):
        frame = ground.clone()
        share = t / (num_frames - 1)
        for photo, x, y in ((photographs[0], 10 + 190 * share, 8), (photographs[1], 200 - 190 * share, 8 + gap_px)):
            x, y = round(x), round(y)
            part = frame[:, y : y + 110, x : x + 110]
            frame[:, y : y + 110, x : x + 110] = part + soft * (photo.float() - part)
        frames.append(frame)
    return torch.stack(frames).round().clamp(0, 255).to(torch.uint8)

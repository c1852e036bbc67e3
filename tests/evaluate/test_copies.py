"""A frozen reference is a copy whatever its embedding says; another take of the same person, in the same light, is none."""

from functools import lru_cache

import matplotlib.cbook
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate

from idgrpo.evaluate.cache import ObservationCache
from idgrpo.evaluate.config import FindingConfig
from idgrpo.evaluate.copies import agreement, face_print, photo_prints
from idgrpo.evaluate.gather import ReferenceBook
from idgrpo.evaluate.measure import load_measures
from idgrpo.evaluate.observe import observe
from idgrpo.evaluate.subject import Subject
from idgrpo.people.align import TEMPLATE
from idgrpo.people.contract import Detection, Levels
from idgrpo.people.faces import FaceFinder
from idgrpo.video.write import write_image

COPIED = load_measures(["copied"])["copied"]
SIDE = 112


@lru_cache
def drawn_face(number: int) -> torch.Tensor:
    """Draw soft patterns of a face's contrast: uint8 [3, 112, 112]."""
    noise = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(number))
    soft = avg_pool2d(noise, 9, 1, 4, count_include_pad=False)
    return ((soft - soft.mean()) / soft.std() * 40 + 128).clamp(0, 255)[0].repeat(3, 1, 1).byte()


class OneFaceFinder:
    """Finds one face that fills the picture, always with the same embedding: who is seen tells nothing."""

    def __init__(self, landmarks: bool = True):
        self.landmarks, self.num_photos = landmarks, 0

    def fingerprint(self) -> str:
        return "one face"

    def find(self, clip):
        height, width = clip.shape[-2:]
        points = TEMPLATE * (width / SIDE, height / SIDE) if self.landmarks else None
        box = (0.0, 0.0, float(width), float(height))
        return [[Detection(k, box, 1.0, self.vector(0.9), landmarks=points)] for k in range(len(clip))]

    def embed_reference(self, image):
        self.num_photos += 1
        return self.vector(1.0)

    def vector(self, cosine: float) -> np.ndarray:
        return np.array([cosine, (1 - cosine**2) ** 0.5], np.float32)


def copied(clip: torch.Tensor, photo: torch.Tensor, finder, levels=Levels(0.95, 0.3)) -> float | None:
    prints = (photo_prints(photo, finder),)
    return COPIED(
        Subject(
            observe(clip, finder, FindingConfig()), finder.embed_reference(photo)[None], prints=prints, levels=levels
        )
    )


def smaller(photo: torch.Tensor, scale: float) -> torch.Tensor:
    return interpolate(photo[None].float(), scale_factor=scale, mode="bilinear", antialias=True)[0].byte()


@pytest.mark.parametrize("change", [lambda p: p, lambda p: p // 2 + 20, lambda p: smaller(p, 0.5)])
def test_the_same_pixels_agree_in_any_light_and_size(change):
    photo, shown = drawn_face(0), change(drawn_face(0))
    first, second = (face_print(p, TEMPLATE * p.shape[-1] / SIDE) for p in (photo, shown))
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert first @ second > 0.95
    other = face_print(drawn_face(1), TEMPLATE)
    assert abs(first @ other) < 0.3


def test_nothing_is_compared_without_points_or_detail():
    flat = torch.full((3, SIDE, SIDE), 90, dtype=torch.uint8)
    for photo, points in ((drawn_face(0), None), (drawn_face(0), np.zeros((5, 2))), (flat, TEMPLATE)):
        assert face_print(photo, points) is None
    assert agreement(np.zeros(1024, np.float32), np.ones((1, 1024), np.float32)) is None
    assert agreement(np.ones(1024, np.float32), np.zeros((0, 1024), np.float32)) is None


def test_only_the_reference_itself_is_a_copy_though_all_embeddings_are_equal():
    photo, finder = drawn_face(0), OneFaceFinder()
    noise = torch.randn((6, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)) * 4
    frozen = (photo + noise).clamp(0, 255).byte()
    assert copied(frozen, photo, finder) == 1.0
    taken = torch.stack([(0.35 * photo + 0.65 * drawn_face(2 + k)).byte() for k in range(6)])  # every frame another
    another = (0.5 * photo.float() + 0.5 * drawn_face(9)).byte().expand(6, -1, -1, -1)
    for clip in (taken, another, drawn_face(1).expand(6, -1, -1, -1)):
        assert copied(clip, photo, finder) == 0.0
    assert copied(frozen, photo, finder, levels=None) == 1.0
    # Without points only embeddings are left, which cannot tell here.
    assert copied(frozen, photo, OneFaceFinder(landmarks=False)) == 0.0
    assert copied(frozen, photo, OneFaceFinder(landmarks=False), levels=None) is None


def test_prints_of_photos_are_kept_by_content(tmp_path):
    write_image(tmp_path / "a.png", drawn_face(0))
    finder = OneFaceFinder()
    books = [ReferenceBook(finder, ObservationCache(tmp_path / "cache", "one", FindingConfig())) for _ in range(2)]
    first = books[0].prints([str(tmp_path / "a.png")])
    finder.find = None  # looked at no more
    assert first.shape == (9, 1024)
    assert books[1].prints([str(tmp_path / "a.png")]) == pytest.approx(first, abs=1e-5)


def test_a_frozen_photograph_is_a_copy_and_the_same_head_mirrored_is_none():
    """Real faces found by MTCNN: the photograph smaller and with noise, and mirrored in other light."""
    pytest.importorskip("facenet_pytorch")
    astronaut = pytest.importorskip("skimage.data").astronaut()[:260, 90:350]
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        hopper = np.asarray(Image.open(file).convert("RGB"))[20:330, 110:420]
    finder, noise = FaceFinder(False), torch.Generator().manual_seed(1)
    for pixels in (astronaut, hopper):
        photo, seen = torch.from_numpy(np.array(pixels)).permute(2, 0, 1), {}
        for name, picture in (("frozen", photo), ("mirrored", (photo.flip(2).float() * 0.85 + 12).byte())):
            frame = interpolate(picture[None].float(), size=(120, 120), mode="bilinear", antialias=True)
            clip = (frame + torch.randn((3, 3, 120, 120), generator=noise) * 2).clamp(0, 255).byte()
            seen[name] = agreement(observe(clip, finder, FindingConfig()).print[0], photo_prints(photo, finder))
        assert seen["frozen"] > 0.92 > 0.9 > seen["mirrored"], seen

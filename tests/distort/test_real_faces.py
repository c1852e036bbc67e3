"""Two real faces, E. Collins and G. Hopper, moving and crossing: swapped, replaced and dropped, and read again by the finder.

MTCNN's weights ship with facenet-pytorch, so finding is real. The embedder here tells these two photographs apart by the
coarse colours of the inner face, which is what is repainted: that somebody is *recognised*, and how alike a stranger is, needs
VGGFace2 weights and is not checked here.
"""

import numpy as np
import pytest
import torch
from tests.people.conftest import PixelEmbedder, make_crossing, photographs  # noqa: F401
from torch.nn.functional import interpolate

from idgrpo.distort.contract import Scene
from idgrpo.distort.identity import drop, replace, swap_late
from idgrpo.distort.located import Located, locate
from idgrpo.distort.mask_painter import MaskPainter
from idgrpo.distort.material import Gallery, GalleryEntry, material_of
from idgrpo.people.facenet import FacenetFinder

pytest.importorskip("facenet_pytorch")

COLLINS, HOPPER = 0, 1
NUM_FRAMES = 12


class InnerFaceEmbedder(PixelEmbedder):
    """Look at eyes, nose and mouth alone: hair and hats stay where they are in a swap."""

    def embed(self, crops: torch.Tensor) -> np.ndarray:
        return super().embed(crops[:, :, 10:22, 11:21])


@pytest.fixture(scope="module")
def finder():
    return FacenetFinder(embedder=InnerFaceEmbedder(), min_face_px=30)


@pytest.fixture(scope="module")
def looks(finder, photographs):  # noqa: F811
    return [finder.embed_reference(photo) for photo in photographs]


@pytest.fixture(scope="module")
def clip(photographs):  # noqa: F811
    return make_crossing(photographs, NUM_FRAMES)


@pytest.fixture(scope="module")
def located(clip, looks, finder) -> Located:
    return locate(clip, looks, finder)


def who_is_where(clip: torch.Tensor, located: Located, finder, looks) -> list[list[int | None]]:
    """Say who is seen at each person's place: [frame][slot], None where no face is found."""
    seen: list[list[int | None]] = []
    for frame, found in enumerate(finder.find(clip)):
        places = [(box[:2] + box[2:]) / 2 for box in located.boxes[:, frame]]
        row: list[int | None] = [None] * located.num_slots
        for detection in found:
            middle = (np.array(detection.box[:2]) + np.array(detection.box[2:])) / 2
            distances = [float(np.linalg.norm(middle - place)) for place in places]
            if min(distances) < 25:
                row[int(np.argmin(distances))] = int(np.argmax([detection.embedding @ look for look in looks]))
        seen.append(row)
    return seen


def agreement(seen: list[list[int | None]], wanted: list[list[int | None]]) -> float:
    return float(np.mean([row == right for row, right in zip(seen, wanted, strict=True)]))


def test_both_are_found_tracked_and_matched_while_they_cross(clip, located, finder, looks):
    assert located.coverage().min() >= 0.95
    assert agreement(who_is_where(clip, located, finder, looks), [[COLLINS, HOPPER]] * NUM_FRAMES) >= 0.95


def test_a_swap_is_seen_by_the_finder_and_the_better_side_keeps_everybody(clip, located, finder, looks, photographs):  # noqa: F811
    scene = Scene(clip, MaskPainter(clip, located, ["collins", "hopper"]), list(photographs))
    outcome = swap_late(scene, 1.0, np.random.default_rng(0))
    swapped = outcome.script.touched().any(1)
    assert swapped.sum() == NUM_FRAMES // 2
    wanted = [[HOPPER, COLLINS] if turned else [COLLINS, HOPPER] for turned in swapped]
    assert agreement(who_is_where(outcome.worse, located, finder, looks), wanted) >= 0.9
    assert agreement(who_is_where(outcome.better, located, finder, looks), [[COLLINS, HOPPER]] * NUM_FRAMES) >= 0.9


def test_a_stranger_takes_the_place_of_one_who_walks_alone(clip, located, finder, looks, photographs, tmp_path):  # noqa: F811
    """Collins alone is the case; Hopper, of another clip, is the stranger."""
    alone = Located(*(getattr(located, part)[:1] for part in ("boxes", "seen", "angles", "embeddings", "similarity")))
    material_of(clip, located, HOPPER).save(tmp_path / "hopper.npz")
    gallery = Gallery([GalleryEntry("hopper", "hopper", located.embeddings[HOPPER], tmp_path / "hopper.npz")])
    scene = Scene(clip, MaskPainter(clip, alone, ["collins"], gallery), [photographs[COLLINS]])
    outcome = replace(scene, 1.0, np.random.default_rng(0))
    assert outcome.stranger == (0, "hopper")
    assert agreement(who_is_where(outcome.worse, alone, finder, looks), [[HOPPER]] * NUM_FRAMES) >= 0.9
    assert agreement(who_is_where(outcome.better, alone, finder, looks), [[COLLINS]] * NUM_FRAMES) >= 0.9


def test_a_dropped_person_is_not_found(photographs, finder, looks):  # noqa: F811
    """One person walks through a wide frame, so that what is behind shows before and after."""
    clip = make_walk(photographs[COLLINS])
    located = locate(clip, looks[:1], finder)
    scene = Scene(clip, MaskPainter(clip, located, ["collins"]), [photographs[COLLINS]])
    outcome = drop(scene, 0.4, np.random.default_rng(0))
    gone = outcome.script.touched()[:, 0]
    assert 4 <= gone.sum() <= 6
    wanted = [[None] if away else [COLLINS] for away in gone]
    assert agreement(who_is_where(outcome.worse, located, finder, looks), wanted) >= 0.9
    assert torch.equal(outcome.better, clip)


def make_walk(photo: torch.Tensor) -> torch.Tensor:
    """Move a small portrait from edge to edge over a smooth still ground: uint8 [12, 3, 240, 640]."""
    rng = np.random.default_rng(1)
    coarse = torch.from_numpy(rng.uniform(90, 160, size=(1, 3, 4, 10)).astype(np.float32))
    ground = interpolate(coarse, size=(240, 640), mode="bicubic", align_corners=False)[0].round().byte()
    frames = ground.repeat(NUM_FRAMES, 1, 1, 1)
    for frame in range(NUM_FRAMES):
        x = 10 + round(520 * frame / (NUM_FRAMES - 1))
        frames[frame, :, 5:115, x : x + 110] = photo
    return frames

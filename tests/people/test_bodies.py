"""The finder of whole people: torchvision's detectors with local weights; here random ones, and drawn people where colours count."""

import numpy as np
import pytest
import torch

from idgrpo.errors import DataError, MachineError, UsageError
from idgrpo.people.bodies import _ellipse, appearance
from idgrpo.people.contract import Finder, fingerprint_of
from idgrpo.people.load import load_finder
from idgrpo.people.match import assign
from idgrpo.tinyworld.cases import make_cases, true_clip
from idgrpo.tinyworld.finder import TinyFinder

MASKS, BOXES = "maskrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"
SMALL = {"side_px": 64, "min_score": 0.0, "min_height_px": 1}
CLIP = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Write random weights, in which every box is a person: architecture -> file."""
    from torchvision.models import get_model

    files = {}
    for architecture in (MASKS, BOXES):
        torch.manual_seed(0)
        model = get_model(architecture, weights=None, weights_backbone=None)
        with torch.no_grad():
            model.roi_heads.box_predictor.cls_score.bias[1] += 20
        files[architecture] = tmp_path_factory.mktemp("weights") / f"{architecture}.pt"
        torch.save(model.state_dict(), files[architecture])
    return files


@pytest.fixture(scope="session")
def make(weights):
    return lambda architecture=BOXES, **more: load_finder(
        "body", weights=str(weights[architecture]), architecture=architecture, **SMALL | more
    )


def figure(hair, shirt, height: int = 96, top: int = 8, left: int = 20, width: int = 24) -> tuple[torch.Tensor, tuple]:
    """Draw somebody on grey, as tall as there is room: uint8 [3, height, 64] and the box."""
    image = torch.full((3, height, 64), 128, dtype=torch.uint8)
    bands = (
        (top, top + 6, hair),
        (top + 6, top + 12, (220, 180, 160)),
        (top + 12, top + 42, shirt),
        (top + 42, height, (40, 40, 60)),
    )
    for first, last, colour in bands:
        image[:, first : min(last, height), left : left + width] = torch.tensor(colour, dtype=torch.uint8)[
            :, None, None
        ]
    return image, (left, top, left + width, height)


def described(image, box) -> np.ndarray:
    mask = torch.zeros(image.shape[1:])
    left, top, right, bottom = box
    mask[top:bottom, left:right] = 1
    return appearance(image, mask, box)


def test_hair_and_clothes_decide():
    anna = described(*figure((60, 40, 20), (200, 30, 30)))
    moved = described(*figure((60, 40, 20), (200, 30, 30), top=20, left=5))
    portrait = described(*figure((60, 40, 20), (200, 30, 30), height=50))
    shirt = described(*figure((60, 40, 20), (30, 60, 200)))
    hair = described(*figure((230, 220, 120), (200, 30, 30)))
    assert anna.shape == (36,) and np.linalg.norm(anna) == pytest.approx(1, abs=1e-6)
    assert anna @ moved > 0.999, "where somebody stands does not matter"
    assert anna @ portrait > 0.97, "nor whether legs are in the picture"
    assert anna @ shirt < 0.7 and anna @ hair < 0.9
    assert np.isfinite(described(torch.zeros(3, 8, 8, dtype=torch.uint8), (0, 0, 0, 0))).all()


def test_colours_tell_people_of_the_embedded_world_apart():
    finder, right = TinyFinder(), []
    for drawn in make_cases(12, 3, "held-out", 2):
        references = [finder.find(photos[0][None])[0][0] for photos in drawn.photos]
        looks = [look(photos[0], d) for photos, d in zip(drawn.photos, references, strict=True)]
        frame = (true_clip(drawn.case).pixels[0, 4] * 255).round().byte()
        found = finder.find(frame[None])[0]
        if len(found) == 2:
            truth = assign(np.array([[r.embedding @ d.embedding for d in found] for r in references]))
            table = np.array([[v @ look(frame, d) for d in found] for v in looks])
            right.append(assign(table) == truth)
    assert len(right) >= 8 and np.mean(right) >= 0.9


def look(image, detection) -> np.ndarray:
    return appearance(image, _ellipse(image.shape[1:], detection.box), detection.box)


def test_it_is_a_finder_with_levels(make):
    finder = make()
    assert isinstance(finder, Finder) and finder.covers == "person"
    found = finder.find(CLIP)
    assert len(found) == 3 and all(found)
    for frame, detections in enumerate(found):
        assert [d.score for d in detections] == sorted((d.score for d in detections), reverse=True)
        for detection in detections:
            assert detection.frame == frame and detection.mask is None and detection.embedding.shape == (36,)
    again = finder.find(CLIP[1:2])[0]
    assert np.allclose(again[0].embedding, found[1][0].embedding, atol=1e-5), "a frame alone is found as among others"
    assert finder.embed_reference(CLIP[0]).shape == (36,)
    assert (finder.levels.same_person, finder.levels.stranger) == (0.88, 0.81)
    assert make(same_person=0.95).levels.same_person == 0.95


def test_a_network_with_masks_gives_them(make):
    (found,) = make(MASKS).find(CLIP[:1])
    assert found and all(d.mask.shape == (64, 96) and 0 <= d.mask.min() <= d.mask.max() <= 1 for d in found)


def test_observations_are_kept_by_weights_and_settings(make, weights, tmp_path):
    finder = make()
    before = fingerprint_of(finder)
    finder.find(CLIP)
    assert fingerprint_of(finder) == fingerprint_of(make()) == before, "not by what was looked at"
    state = torch.load(weights[BOXES], weights_only=True)
    state["roi_heads.box_predictor.cls_score.bias"][1] += 1
    torch.save(state, tmp_path / "other.pt")
    other = load_finder("body", weights=str(tmp_path / "other.pt"), architecture=BOXES, **SMALL)
    different = [other, make(min_score=0.5), make(same_person=0.95), make(side_px=96)]
    assert len({before, *map(fingerprint_of, different)}) == 5


def test_scores_and_heights_below_the_settings_are_left_out(make):
    finder = make(min_height_px=1000)
    assert finder.find(CLIP[:1]) == [[]]
    finder.min_height_px, finder.min_score = 1, 1.1
    assert finder.find(CLIP[:1]) == [[]]
    with pytest.raises(DataError, match="nobody found in the reference"):
        finder.embed_reference(CLIP[0])


def test_what_is_no_detector_is_refused(make, weights, tmp_path):
    with pytest.raises(MachineError, match="the finder body has no weights"):
        load_finder("body")
    with pytest.raises(UsageError, match="there is no detector 'yolo'"):
        load_finder("body", weights=str(weights[BOXES]), architecture="yolo")
    with pytest.raises(MachineError, match=r"320_fpn\.pt does not fit retinanet_resnet50_fpn"):
        load_finder("body", weights=str(weights[BOXES]), architecture="retinanet_resnet50_fpn")
    (tmp_path / "text.pt").write_text("no weights")
    for name, says in (("none.pt", "no weights of a person detector"), ("text.pt", "is no torch checkpoint")):
        with pytest.raises(MachineError, match=says) as caught:
            load_finder("body", weights=str(tmp_path / name))
        assert "maskrcnn_resnet50_fpn(weights='DEFAULT')" in caught.value.fix


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_works_on_the_gpu(make):
    for here, there in zip(make().find(CLIP), make(device="cuda").find(CLIP), strict=True):
        assert np.allclose(here[0].embedding, there[0].embedding, atol=0.05)

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from idgrpo.people.align import (
    TEMPLATE,
    affine_transform,
    aligned,
    applied,
    crop_square,
    face_crop,
    inverted,
    similarity_transform,
    template_for,
)


def turned(points: np.ndarray, degrees: float, scale: float = 1.0, shift=(0.0, 0.0)) -> np.ndarray:
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + shift


@given(st.floats(-179, 179), st.floats(0.05, 20), st.floats(-500, 500), st.floats(-500, 500))
def test_a_similarity_is_found_again_and_undone(degrees, scale, x, y):
    moved = turned(TEMPLATE, degrees, scale, (x, y))
    transform = similarity_transform(moved, TEMPLATE)
    assert applied(transform, moved) == pytest.approx(TEMPLATE, abs=1e-6)
    assert applied(inverted(transform), TEMPLATE) == pytest.approx(moved, abs=1e-5)


def test_a_similarity_never_mirrors_and_needs_two_places():
    mirrored = TEMPLATE * (-1, 1)
    assert np.linalg.det(similarity_transform(mirrored, TEMPLATE)[:, :2]) > 0
    with pytest.raises(ValueError, match="all points are one"):
        similarity_transform(np.ones((5, 2)), TEMPLATE)


def test_an_affine_map_meets_another_face_unless_it_would_fold():
    longer = TEMPLATE * (1, 1.2) + (3, 4)
    assert applied(affine_transform(longer, TEMPLATE), longer) == pytest.approx(TEMPLATE, abs=1e-9)
    profile = TEMPLATE.copy()
    profile[:, 0] = 50 + 0.1 * profile[:, 0]
    assert affine_transform(profile, TEMPLATE) == pytest.approx(similarity_transform(profile, TEMPLATE))
    mirrored = TEMPLATE * (-1, 1)
    assert np.linalg.det(affine_transform(mirrored, TEMPLATE)[:, :2]) > 0


def test_the_standard_template_is_that_of_arcface_and_scales():
    assert template_for(112) == pytest.approx(TEMPLATE)
    assert template_for(224) == pytest.approx(2 * TEMPLATE)
    wider = template_for(112, span=1.25)
    assert np.ptp(wider, axis=0) == pytest.approx(np.ptp(TEMPLATE, axis=0) / 1.25)
    assert template_for(112, lower=0.1)[:, 1] == pytest.approx(TEMPLATE[:, 1] - 11.2)


@pytest.mark.parametrize("degrees", [-40, -10, 0, 25, 120])
@pytest.mark.parametrize("scale", [0.6, 1.0, 3.0])
def test_five_marks_land_on_the_template_however_the_face_is_turned(degrees, scale):
    """Draw a mark at each landmark of a turned face, cut, and look where the marks are."""
    points = turned(TEMPLATE - 56, degrees, scale) + 300
    image = torch.zeros(3, 600, 600)
    rows, columns = torch.meshgrid(torch.arange(600) + 0.5, torch.arange(600) + 0.5, indexing="ij")
    for x, y in points:
        image += 255 * torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (2.5 * scale) ** 2))
    crop = aligned(image.clamp(0, 255).byte(), points, 112).float()[0]
    for x, y in TEMPLATE:
        around = crop[int(y) - 5 : int(y) + 6, int(x) - 5 : int(x) + 6]
        weight = around / around.sum()
        offsets = torch.arange(-5, 6) + 0.5
        seen = (float((weight.sum(0) * offsets).sum()) + int(x), float((weight.sum(1) * offsets).sum()) + int(y))
        assert seen == pytest.approx((x, y), abs=0.6)


def test_without_usable_landmarks_the_box_is_cut():
    image = torch.randint(0, 256, (3, 60, 60), dtype=torch.uint8)
    box = (10.0, 10.0, 40.0, 40.0)
    for landmarks in (None, np.full((5, 2), np.nan), np.full((5, 2), 20.0)):
        assert torch.equal(face_crop(image, box, landmarks, 32), crop_square(image, box, 32))
    assert face_crop(image, box, TEMPLATE / 3 + 5, 32).shape == (3, 32, 32)


def test_a_face_at_the_edge_repeats_it():
    image = torch.full((3, 50, 50), 90, dtype=torch.uint8)
    assert torch.equal(aligned(image, TEMPLATE / 2 - 30, 64), torch.full((3, 64, 64), 90, dtype=torch.uint8))

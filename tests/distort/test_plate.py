import pytest
import torch

from idgrpo.distort.plate import background_plate, filled


def test_holes_are_filled_from_around_them_and_known_pixels_stay():
    slope = torch.linspace(0, 200, 64).expand(3, 48, 64).clone()
    known = torch.ones(48, 64, dtype=torch.bool)
    known[15:30, 20:35] = False
    result = filled(slope * known, known)
    assert torch.equal(result[:, known], slope[:, known])
    assert float((result - slope).abs().amax()) < 25
    assert filled(slope, torch.zeros_like(known)) is slope


def test_the_plate_is_what_shows_when_nobody_stands_there():
    clip = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    bodies = torch.zeros(4, 8, 8, dtype=torch.bool)
    for frame in range(4):
        clip[frame, :, :, frame], bodies[frame, :, frame] = 250, True
    bodies[:, 0, 7] = True
    plate, known = background_plate(clip, bodies)
    assert int((~known).sum()) == 1 and not known[0, 7]
    assert plate[:, known].unique().tolist() == pytest.approx([100])

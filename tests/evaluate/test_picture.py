"""Motion, sharpness, ripple and saturation on clips whose answer is known."""

import pytest
import torch
import torch.nn.functional as F

from idgrpo.evaluate.motion import flow_magnitudes
from idgrpo.evaluate.texture import mean_saturation, mean_sharpness, residual_ripple


def pattern(height: int = 48, width: int = 64) -> torch.Tensor:
    """A smooth random texture, uint8 [3, h, w]."""
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    smooth = F.avg_pool2d(F.pad(noise, (4, 4, 4, 4), mode="circular"), 9, 1)[0]
    return ((smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255).to(torch.uint8)


def rolling(dx: int, dy: int, num_frames: int = 6) -> torch.Tensor:
    image = pattern()
    return torch.stack([image.roll((dy * f, dx * f), (1, 2)) for f in range(num_frames)])


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (-1, 0), (0, 2), (3, 0), (2, -2)])
def test_flow_finds_the_shift(dx, dy):
    inner = flow_magnitudes(rolling(dx, dy))[:, 8:-8, 8:-8] * 48
    assert float(inner.median()) == pytest.approx((dx * dx + dy * dy) ** 0.5, rel=0.2)


def test_opposite_motions_do_not_cancel():
    half = rolling(1, 0)
    both = torch.cat((half[..., :32], rolling(-1, 0)[..., :32]), -1)
    assert float(flow_magnitudes(both).mean()) > 0.6 * float(flow_magnitudes(half).mean())


def test_stills_do_not_move():
    assert float(flow_magnitudes(rolling(0, 0)).max()) < 1e-4
    assert len(flow_magnitudes(rolling(0, 0)[:1])) == 0


def test_cost_is_bounded_for_large_frames():
    large = F.interpolate(rolling(1, 0).float(), scale_factor=6, mode="bilinear").to(torch.uint8)
    assert flow_magnitudes(large).shape[-2] == 96
    assert float(flow_magnitudes(large).mean()) == pytest.approx(float(flow_magnitudes(rolling(1, 0)).mean()), rel=0.3)


def test_blur_lowers_sharpness():
    clip = rolling(1, 0)
    blurred = F.avg_pool2d(clip.float(), 5, 1, 2).to(torch.uint8)
    assert mean_sharpness(blurred) < 0.8 * mean_sharpness(clip)


def test_a_checkerboard_in_the_sky_is_ripple():
    sky = torch.full((4, 3, 32, 32), 180, dtype=torch.uint8)
    sky[..., 20:, :] = pattern(32, 32)[:, 20:]
    board = (torch.arange(32).view(-1, 1) + torch.arange(32)) % 2 * 8
    rippled = (sky + board.to(torch.uint8) * (torch.arange(32) < 20).view(-1, 1)).to(torch.uint8)
    assert residual_ripple(sky) < 0.002
    assert residual_ripple(rippled) > 5 * residual_ripple(sky) + 0.005


def test_saturation():
    grey = torch.full((2, 3, 8, 8), 90, dtype=torch.uint8)
    red = grey.clone()
    red[:, 0] = 255
    assert mean_saturation(grey) == 0.0
    assert mean_saturation(red) == pytest.approx(165 / 255)

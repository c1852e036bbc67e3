import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from idgrpo.bases.conditions import check_references
from idgrpo.bases.phantom import fit_phantom
from idgrpo.bases.vace import fit_vace
from idgrpo.errors import DataError

WHITE = torch.full((3, 64, 64), 255, dtype=torch.uint8)


def photo(height, width, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200, (3, height, width), generator=draws, dtype=torch.uint8)


@pytest.mark.parametrize("fit", [fit_vace, fit_phantom])
@pytest.mark.parametrize(("height", "width"), [(40, 40), (20, 60), (60, 20), (7, 300), (300, 7)])
def test_whole_photo_is_centred_on_white(fit, height, width):
    out = fit(photo(height, width), 32, 48)
    assert out.shape == (3, 32, 48)
    inside = (out < 0.999).any(0)
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    top, bottom, left, right = int(rows[0]), 31 - int(rows[-1]), int(columns[0]), 47 - int(columns[-1])
    assert abs(top - bottom) <= 1
    assert abs(left - right) <= 1
    assert min(top, left) == 0, "one side is filled"
    assert float(out.min()) >= -1.0
    assert float(out.max()) <= 1.0


@pytest.mark.parametrize("fit", [fit_vace, fit_phantom])
def test_a_photo_of_the_frames_size_is_untouched(fit):
    image = photo(32, 48)
    assert torch.allclose(fit(image, 32, 48), image.float() / 127.5 - 1.0, atol=1e-6)


@pytest.mark.parametrize("fit", [fit_vace, fit_phantom])
def test_floats_in_0_to_1_are_the_same_photo(fit):
    image = photo(40, 30)
    assert torch.equal(fit(image, 32, 48), fit(image.float() / 255.0, 32, 48))


def test_phantom_equals_the_published_preprocessing():
    # Restated from Phantom's load_ref_images with PIL alone.
    image = photo(50, 37)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    height, width = 32, 48
    ratio = picture.width / picture.height
    new = (width, int(width / ratio)) if ratio > width / height else (int(height * ratio), height)
    picture = picture.resize(new, Image.LANCZOS)
    dx, dy = width - new[0], height - new[1]
    padded = ImageOps.expand(picture, (dx // 2, dy // 2, dx - dx // 2, dy - dy // 2), fill=(255, 255, 255))
    expected = torch.from_numpy(np.array(padded)).permute(2, 0, 1).float() / 255.0
    assert torch.allclose(fit_phantom(image, height, width), (expected - 0.5) / 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("references", "text"),
    [
        ([], "at least one reference"),
        ([WHITE] * 5, "at most 4"),
        ([WHITE, WHITE[:, :20]], "reference 2 is 64x20 px"),
        ([WHITE[0]], "shape"),
        ([WHITE[:1]], "shape"),
    ],
)
def test_unusable_references_are_named(references, text):
    with pytest.raises(DataError, match=text):
        check_references(references, min_px=64, max_references=4)


def test_usable_references_pass():
    check_references([WHITE] * 4, min_px=64, max_references=4)

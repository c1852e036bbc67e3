import pytest
import torch
from tiny_checkpoints import PUBLIC_VAE, TINY_VAE, make_vae

from idgrpo.bases.architectures import ARCHITECTURES, WAN_VAE
from idgrpo.bases.contract import VideoSize
from idgrpo.bases.geometry import Geometry
from idgrpo.errors import UsageError

PUBLIC = Geometry.of(WAN_VAE, ARCHITECTURES["wan-1.3b"])


@pytest.mark.parametrize(("structure", "factors"), [(PUBLIC_VAE, (8, 4)), (TINY_VAE, (4, 2))])
def test_factors_are_those_of_the_vae_itself(structure, factors):
    vae = make_vae(structure)
    geometry = Geometry.of(vae.config, {"patch_size": [1, 2, 2]})
    assert (geometry.spatial, geometry.temporal) == factors
    latents = vae.encode(torch.zeros(1, 3, 9, 32, 48)).latent_dist.mode()
    assert tuple(latents.shape[2:]) == geometry.latent_size(VideoSize(48, 32, 9))


@pytest.mark.parametrize("frames", [1, 3, 5, 7, 9, 11])
def test_encodable_frames_lose_nothing(frames):
    # AutoencoderKLWan drops what does not fill a chunk of four: 7 frames would become 5.
    vae = make_vae(TINY_VAE)
    geometry = Geometry.of(vae.config, {"patch_size": [1, 2, 2]})
    latents = vae.encode(torch.zeros(1, 3, geometry.encodable_frames(frames), 16, 16)).latent_dist.mode()
    assert latents.shape[2] >= geometry.latent_frames(frames)


@pytest.mark.parametrize(
    ("size", "references", "tokens"), [(VideoSize(416, 240, 33), 2, 4290), (VideoSize(832, 480, 81), 2, 35_880)]
)
def test_tokens_of_the_published_sizes(size, references, tokens):
    assert PUBLIC.num_tokens(size, references) == tokens


@pytest.mark.parametrize("size", [VideoSize(416, 240, 33), VideoSize(832, 480, 81), VideoSize(16, 16, 1)])
def test_valid_sizes_pass(size):
    PUBLIC.check(size)


@pytest.mark.parametrize(
    ("size", "texts", "nearest"),
    [
        (VideoSize(420, 240, 33), ["width 420 is not a multiple of 16 = 8 (VAE) x 2 (patch)"], "416x240x33"),
        (VideoSize(416, 250, 34), ["height 250", "frames 34 is not 4 k + 1"], "416x256x33"),
        (VideoSize(3, 240, 33), ["width 3"], "16x240x33"),
        (VideoSize(416, 240, 0), ["frames 0"], "416x240x1"),
    ],
)
def test_impossible_sizes_are_refused_with_the_nearest_valid(size, texts, nearest):
    with pytest.raises(UsageError) as caught:
        PUBLIC.check(size)
    assert all(text in caught.value.message for text in texts)
    assert nearest in caught.value.fix

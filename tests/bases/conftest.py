import copy
import os
import sys
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import tiny_checkpoints

from idgrpo.bases.load import load_base


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Write one folder per kind: vace, phantom (public structure), vace-tiny, phantom-tiny, original (a .pth)."""
    root = tmp_path_factory.mktemp("checkpoints")
    for family in ("vace", "phantom"):
        tiny_checkpoints.write_diffusers_base(root / family, family)
        tiny_checkpoints.write_diffusers_base(root / f"{family}-tiny", family, tiny_checkpoints.TINY_VAE)
    tiny_checkpoints.write_original_phantom(root / "original")
    return root


@pytest.fixture(scope="session")
def fresh(checkpoints):
    """Give an untouched base of a checkpoint: loaded once, then copied."""
    loaded = {}

    def make(name):
        if name not in loaded:
            loaded[name] = load_base(str(checkpoints / name))
            loaded[name].text_encoder.load()
        return copy.deepcopy(loaded[name])

    return make


@pytest.fixture
def vace(fresh):
    return fresh("vace")


@pytest.fixture
def phantom(fresh):
    return fresh("phantom")


@pytest.fixture(params=["vace", "vace-tiny", "phantom", "phantom-tiny"])
def base(request, fresh):
    return fresh(request.param)


@pytest.fixture
def photos():
    """Give four different photos of different shapes, sides multiples of 8 (see the parity test)."""
    draws = torch.Generator().manual_seed(7)
    shapes = [(24, 40), (32, 32), (48, 24), (40, 16)]
    return [torch.randint(0, 256, (3, h, w), generator=draws, dtype=torch.uint8) for h, w in shapes]

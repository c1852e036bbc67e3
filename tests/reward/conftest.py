"""Fixtures of the reward room: tiny checkpoints on disk, random clips, preferences with a visible difference."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.extend(str(Path(__file__).parents[1] / room) for room in ("bases", "policy"))

import pytest

COMPACT = {
    "num_frames": 4,
    "min_pixels": 1024,
    "max_pixels": 1024,
    "template_name": "compact_v1",
    "prompt_text": "{prompt}",
    "reference_text": "{index}{image}",
}


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL with patch 4, two frames a token row."""
    from tiny_vlm import write_tiny_vlm

    return write_tiny_vlm(tmp_path_factory.mktemp("vlm") / "tiny", carried=COMPACT)

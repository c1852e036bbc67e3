"""Fixtures of the policy room: a linear fake base for numerics, a tiny random checkpoint for whole runs."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / room) for room in ("bases", "reward"))]

import pytest  # noqa: E402
from fake_base import FakeBase  # noqa: E402


@pytest.fixture
def fake_base() -> FakeBase:
    return FakeBase()

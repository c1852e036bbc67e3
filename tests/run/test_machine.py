"""What the machine decides: the type that weights are held in."""

import pytest
import torch

from idgrpo.errors import UsageError
from idgrpo.run.machine import DTYPE_ENV, weights_dtype


def test_weights_follow_the_device_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv(DTYPE_ENV, raising=False)
    assert (weights_dtype("cpu"), weights_dtype("cuda:1")) == (torch.float32, torch.bfloat16)
    for name in ("bfloat16", "float32"):
        monkeypatch.setenv(DTYPE_ENV, name)
        assert weights_dtype("cpu") == weights_dtype("cuda") == getattr(torch, name)
    monkeypatch.setenv(DTYPE_ENV, "float16")
    with pytest.raises(UsageError, match="IDGRPO_DTYPE=float16"):
        weights_dtype("cpu")

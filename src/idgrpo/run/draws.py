"""Random draws as functions of what they are for, so that resuming is exact by construction."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_of(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on all parts, their kinds and their order."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str, device: str = "cpu") -> "torch.Generator":
    """Return a torch generator seeded by `seed_of(*parts)`."""
    import torch

    return torch.Generator(device).manual_seed(seed_of(*parts))

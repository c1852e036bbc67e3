"""Tell finders apart by what they compute with, so that new weights never meet old observations."""

import hashlib

from torch import nn

from idgrpo.people.contract import Finder


def finder_key(finder: Finder) -> str:
    """Give class, settings and weights of a finder as a short digest; a finder may say it itself by a `key`."""
    if own := getattr(finder, "key", None):
        return str(own)
    digest = hashlib.sha256(f"{type(finder).__module__}.{type(finder).__qualname__}".encode())
    _add(digest, finder, depth=0)
    return digest.hexdigest()[:16]


def _add(digest, thing: object, depth: int) -> None:
    for name, value in sorted(vars(thing).items()):
        if isinstance(value, nn.Module):
            for key, tensor in sorted(value.state_dict().items()):
                digest.update(f"{name}.{key}".encode())
                digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        elif isinstance(value, int | float | str | bool):
            digest.update(f"{name}={value}".encode())
        elif depth < 2 and hasattr(value, "__dict__") and type(value).__module__.startswith("idgrpo."):
            _add(digest, value, depth + 1)

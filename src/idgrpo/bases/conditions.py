"""What a case becomes before it is denoised: its photos checked, its encodings kept, keyed by content."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.bases.contract import Base, Condition, VideoSize
from idgrpo.errors import DataError
from idgrpo.records.atomic import replacing


def check_references(references: Sequence[Tensor], *, min_px: int, max_references: int) -> None:
    """Refuse what no base can use: no photo, too many, not an RGB image, smaller than min_px. Raises DataError."""
    if not references:
        raise DataError("a case needs at least one reference image", fix="add a photo of each person")
    if len(references) > max_references:
        raise DataError(
            f"{len(references)} reference images, at most {max_references} are possible",
            fix=f"keep the {max_references} most important people",
        )
    for number, image in enumerate(references, start=1):
        if image.ndim != 3 or image.shape[0] != 3:
            raise DataError(f"reference {number} has shape {tuple(image.shape)}, expected [3, height, width]")
        height, width = image.shape[1:]
        if min(height, width) < min_px:
            raise DataError(
                f"reference {number} is {width}x{height} px; its shorter side must have at least {min_px} px",
                fix="use a larger photo of this person",
            )


def as_uint8(image: Tensor) -> Tensor:
    """Give an image as uint8; floats are taken as 0..1."""
    if image.dtype == torch.uint8:
        return image.cpu()
    return (image.float().clamp(0, 1) * 255.0).round().to(torch.uint8).cpu()


def condition_key(base: Base, prompt: str, references: Sequence[Tensor], size: VideoSize) -> str:
    """Give the sha256 of everything an encoding depends on; references count in their order."""
    digest = hashlib.sha256()
    # An encoding does not depend on the transformer, but on the encoders, which the entry's sources name.
    entry = base.entry
    digest.update(repr((entry.family, entry.source, entry.companion, entry.revision, entry.text_length)).encode())
    digest.update(repr((entry.negative_prompt, prompt, tuple(size))).encode())
    for image in references:
        pixels = as_uint8(image)
        digest.update(repr(tuple(pixels.shape)).encode())
        digest.update(pixels.contiguous().numpy().tobytes())
    return digest.hexdigest()


class ConditionCache:
    """Keeps the newest encodings in memory, and all of them in a folder when one is given."""

    def __init__(self, folder: Path | None = None, max_items: int = 256):
        self.folder, self.max_items = folder, max_items
        self._items: OrderedDict[str, Condition] = OrderedDict()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def encode(self, base: Base, prompt: str, references: Sequence[Tensor], size: VideoSize) -> Condition:
        """Give the encoding of a case, from memory, from disk, or by `base.encode`."""
        key = condition_key(base, prompt, references, size)
        condition = self._items.get(key) or self._read(key, size)
        if condition is None:
            condition = replace(base.encode(prompt, references, size), key=key)
            self._write(key, condition)
        self._items[key] = condition
        self._items.move_to_end(key)
        while len(self._items) > self.max_items:
            self._items.popitem(last=False)
        return condition

    def _read(self, key: str, size: VideoSize) -> Condition | None:
        path = self.folder / f"{key}.safetensors" if self.folder else None
        if path is None or not path.is_file():
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
            return Condition(
                tensors["text"], tensors["negative"], tensors["references"], tensors.get("background"), size, key
            )
        except (SafetensorError, KeyError, OSError):
            return None  # a cache: a damaged entry is made again

    def _write(self, key: str, condition: Condition) -> None:
        if self.folder is None:
            return
        from safetensors.torch import save_file

        tensors = {name: getattr(condition, name) for name in ("text", "negative", "references", "background")}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items() if value is not None}
        with replacing(self.folder / f"{key}.safetensors") as draft:
            save_file(tensors, draft)

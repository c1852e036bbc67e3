"""A small cache of encodings, keyed by content: prompt, reference pixels, size, and the base that made them."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from idgrpo.bases.contract import Base, Condition, VideoSize
from idgrpo.bases.references import as_uint8
from idgrpo.records.atomic import replacing


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

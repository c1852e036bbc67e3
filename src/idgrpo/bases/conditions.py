"""What a case becomes before it is denoised: photos read and checked, text and photos encoded once, encodings kept."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from idgrpo.bases.contract import Base, Condition, VideoSize
from idgrpo.bases.finite import NotFiniteError, first_not_finite
from idgrpo.errors import DataError
from idgrpo.records.atomic import replacing
from idgrpo.records.models import Case
from idgrpo.run.dealing import Dealing

Read = Callable[[Case], list[Tensor]]
"""Gives the photos of a case, uint8 [3, height, width], in order."""


def read_references(case: Case) -> list[Tensor]:
    """Read the photos of a case, the first image of each person, in order. Raises DataError (case and file)."""
    from idgrpo.video.read import read_image

    images = []
    for reference in case.references:
        path = Path(reference.images[0])
        if not path.is_file():
            raise DataError(
                f"case '{case.id}': the image of {reference.person} is missing: {path}",
                fix="put the photo back, or correct its path where the case is described",
            )
        images.append(read_image(path))
    return images


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


class ConditionsCache:
    """Keeps encodings by content: the newest in memory, all of them in a folder when one is given.

    The folder may be shared by ranks, runs, sampling, training and evaluation: an entry depends on the weights of the
    encoders, the prompt, the photos' pixels, and the size, not on names or places. What all cases of a size share (negative
    prompt, grey clip) is stored once. A damaged entry is made again.
    """

    def __init__(self, folder: Path | None = None, max_items: int = 256):
        self.folder, self.max_items = folder, max_items
        self._items: OrderedDict[str, Condition] = OrderedDict()
        self._shared: dict[str, dict[str, Tensor]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def key(self, base: Base, prompt: str, references: Sequence[Tensor], size: VideoSize) -> str:
        """Give the name of an encoding; references count in their order."""
        digest = hashlib.sha256(repr((prompt, len(references))).encode())
        for image in references:
            pixels = as_uint8(image)
            digest.update(repr(tuple(pixels.shape)).encode())
            digest.update(pixels.contiguous().numpy().tobytes())
        return f"{self._shared_key(base, size)}-{digest.hexdigest()}"

    def encode(self, base: Base, prompt: str, references: Sequence[Tensor], size: VideoSize) -> Condition:
        """Give the encoding of a case, from memory, from disk, or by `base.encode`."""
        key = self.key(base, prompt, references, size)
        condition = self.get(key, size)
        if condition is None:
            condition = replace(base.encode(prompt, references, size), key=key)
            self._write(condition)
            self._keep(condition)
        return condition

    def get(self, key: str, size: VideoSize) -> Condition | None:
        """Give a kept encoding by the name that `key` gave (and `Condition.key` carries), or None."""
        condition = self._items.get(key) or self._read(key, size)
        if condition is not None:
            self._keep(condition)
        return condition

    def _shared_key(self, base: Base, size: VideoSize) -> str:
        entry = base.entry
        made_by = (entry.family, base.encoders_digest, entry.text_length, entry.negative_prompt)
        return hashlib.sha256(repr((made_by, tuple(size))).encode()).hexdigest()[:32]

    def _keep(self, condition: Condition) -> None:
        self._items[condition.key] = condition
        self._items.move_to_end(condition.key)
        while len(self._items) > self.max_items:
            self._items.popitem(last=False)

    def _read(self, key: str, size: VideoSize) -> Condition | None:
        if self.folder is None:
            return None
        shared_key = key.partition("-")[0]
        if shared_key not in self._shared:
            self._shared[shared_key] = _read_tensors(self.folder / f"{shared_key}.safetensors")
        shared, own = self._shared[shared_key], _read_tensors(self.folder / f"{key}.safetensors")
        try:
            return Condition(
                own["text"], shared["negative"], own["references"], shared.get("background"), size=size, key=key
            )
        except KeyError:
            return None

    def _write(self, condition: Condition) -> None:
        if self.folder is None:
            return
        shared_key = condition.key.partition("-")[0]
        if not self._shared.get(shared_key):
            shared = {"negative": condition.negative, "background": condition.background}
            self._shared[shared_key] = {name: value for name, value in shared.items() if value is not None}
            _write_tensors(self.folder / f"{shared_key}.safetensors", self._shared[shared_key])
        own = {"text": condition.text, "references": condition.references}
        _write_tensors(self.folder / f"{condition.key}.safetensors", own)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read an entry; nothing when it is missing, damaged or not finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError):
        return {}
    return tensors if first_not_finite(tensors) is None else {}


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with replacing(path) as draft:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, draft)


def encode_case(
    base: Base, case: Case, size: VideoSize, cache: ConditionsCache, read: Read = read_references
) -> Condition:
    """Encode a case through the cache. Raises DataError and NotFiniteError that name the case."""
    references = read(case)
    try:
        return cache.encode(base, case.prompt, references, size)
    except DataError as error:
        raise DataError(f"case '{case.id}': {error.message}", fix=error.fix) from error
    except NotFiniteError as error:
        raise NotFiniteError(f"case '{case.id}': {error.message}") from error


def encode_cases(
    base: Base,
    cases: Iterable[Case],
    size: VideoSize,
    cache: ConditionsCache,
    *,
    read: Read = read_references,
    check: Callable[[], None] = lambda: None,
    dealing: Dealing | None = None,
) -> dict[str, str]:
    """Encode every case once, then let the text encoder go; give the name of each case's encoding by case id.

    Processes that share a cache on disk share the work as `dealing` says.

    Needs no transformer: `load_base(.., with_transformer=False)`, this, `release_encoders`, `load_transformer` never has
    both in memory. `check` is called before each case and may raise (StopSignal.check).
    """
    distinct = {case.id: case for case in cases}
    keys: dict[str, str] = {}
    if dealing is None or cache.folder is None:
        dealing = Dealing(publishes=False)
    for case in dealing.share(list(distinct.values()), lambda case: case.id, label="encode", unit="cases", check=check):
        keys[case.id] = encode_case(base, case, size, cache, read).key
    base.text_encoder.release()
    # Others' encodings are found by content, without an encoder.
    return {name: keys.get(name) or cache.key(base, case.prompt, read(case), size) for name, case in distinct.items()}

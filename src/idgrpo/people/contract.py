"""What a finder of people gives, what it is asked for, and what it says about itself: its levels and its fingerprint."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4

import numpy as np
import torch

MAX_DEPTH = 60


@dataclass
class Detection:
    """Hold one person found in one frame.

    `box` is (left, top, right, bottom) in pixels, right and bottom exclusive. `mask` is [height, width] of the whole frame, bool
    or 0..1. `landmarks` are five points (eye, eye, nose, mouth corner, mouth corner; left in the picture first) in pixels.
    """

    frame: int
    box: tuple[float, float, float, float]
    score: float
    embedding: np.ndarray | None = None
    mask: np.ndarray | None = None
    landmarks: np.ndarray | None = None


@dataclass(frozen=True)
class Levels:
    """Say what cosines mean in the space of one finder.

    Two pictures of one person have at least `same_person`, two of different people at most `stranger`, nearly always.
    """

    same_person: float
    stranger: float

    def __post_init__(self) -> None:
        if not -1 <= self.stranger < self.same_person <= 1:
            raise ValueError(
                f"levels must be -1 <= stranger < same_person <= 1, not {self.stranger} and {self.same_person}"
            )

    @property
    def middle(self) -> float:
        """Give the cosine from which two pieces of a track more likely show one person than two."""
        return (self.same_person + self.stranger) / 2


@runtime_checkable
class Finder(Protocol):
    """Find people in clips and put clips and portraits into one space, comparable by cosine.

    A finder may also have `covers` ("face", what boxes hold when it is missing, or "person"), `levels` (`Levels`), and
    `fingerprint()` (a string that changes with its weights and settings).
    """

    def find(self, clip: torch.Tensor) -> list[list[Detection]]:
        """Find people: one list of detections per frame of `clip` uint8 [frame, 3, height, width]."""

    def embed_reference(self, image: torch.Tensor) -> np.ndarray:
        """Embed a portrait uint8 [3, height, width] as a unit vector [d]; DataError when nobody is in it."""


@runtime_checkable
class Embedder(Protocol):
    """Embed face crops.

    An embedder may also have `crop(image, box, landmarks)`, which cuts uint8 [3, crop_size, crop_size] out of an image uint8
    [3, height, width] (`box` and `landmarks` as in `Detection`; landmarks may be None); without it `people.align.face_crop` does.
    `levels` and `fingerprint()` as in `Finder`.
    """

    crop_size: int

    def embed(self, crops: torch.Tensor) -> np.ndarray:
        """Embed uint8 crops [n, 3, crop_size, crop_size] as unit vectors float32 [n, d]."""


def levels_of(finder: object) -> Levels | None:
    """Give the levels that a finder or embedder states; None where it states none."""
    levels = getattr(finder, "levels", None)
    return levels if isinstance(levels, Levels) else None


def fingerprint_of(finder: object) -> str:
    """Give a short digest of a finder's class, settings and weights: what was seen under another one must not be used again.

    A finder's own `fingerprint()` is taken where there is one. Otherwise all that its attributes hold is hashed, whoever wrote
    their classes. What cannot be hashed (a session of another runtime, an open file) makes the fingerprint unique to this call:
    nothing is used again, and nothing stale either.
    """
    digest = hashlib.sha256()
    _add(digest, finder, [])
    return digest.hexdigest()[:16]


def _add(digest: Any, thing: Any, path: list[int]) -> None:
    """Feed a value into a digest; `path` holds the objects it is part of, so that a circle ends."""
    digest.update(f"<{type(thing).__module__}.{type(thing).__qualname__}>".encode())
    if id(thing) in path:
        return
    inside = [*path, id(thing)]
    if thing is None or isinstance(thing, int | float | complex | str | bytes | torch.device | torch.dtype | np.dtype):
        digest.update(repr(thing).encode())
    elif callable(own := getattr(thing, "fingerprint", None)):
        digest.update(str(own()).encode())
    elif isinstance(thing, Path):
        digest.update(file_content(thing) if thing.is_file() else str(thing).encode())
    elif isinstance(thing, torch.Tensor):
        digest.update(repr((thing.dtype, tuple(thing.shape))).encode())
        digest.update(thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(thing, np.ndarray) and thing.dtype != object:
        digest.update(repr((thing.dtype, thing.shape)).encode() + np.ascontiguousarray(thing).tobytes())
    elif isinstance(thing, dict):
        for key in sorted(thing, key=repr):
            _add(digest, key, inside)
            _add(digest, thing[key], inside)
    elif isinstance(thing, list | tuple | np.ndarray):
        for item in thing:
            _add(digest, item, inside)
    elif isinstance(thing, set | frozenset):
        _add(digest, sorted(map(repr, thing)), inside)
    elif isinstance(thing, type | ModuleType | BuiltinFunctionType):
        digest.update(repr(getattr(thing, "__qualname__", thing.__name__)).encode())
    elif isinstance(thing, MethodType):
        _add(digest, (thing.__func__, thing.__self__), inside)
    elif isinstance(thing, FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        _add(digest, [thing.__qualname__, thing.__code__.co_code, thing.__defaults__, cells], inside)
    else:
        _add(digest, _state(thing) if len(path) < MAX_DEPTH else uuid4().bytes, inside)


def _state(thing: Any) -> Any:
    """Give what makes up an object, as pickle would see it but one level deep; random bytes where it will not say."""
    try:
        parts = thing.__reduce_ex__(2)
    except Exception:  # whatever a foreign class raises when it cannot be taken apart
        return uuid4().bytes
    return parts if isinstance(parts, str) else [list(p) if isinstance(p, Iterator) else p for p in parts]


def file_content(path: Path) -> bytes:
    """Give the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()

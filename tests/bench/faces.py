"""Real faces for the bench: photographs that packages ship, dlib's recognition network, and clips of two people who move.

`make bench-faces` installs what only this bench needs: `dlib-bin` and `face-recognition-models` (the network), `mahotas` and the source
package `face-recognition` (photographs). Photographs: E. Collins (scikit-image, NASA), G. Hopper (matplotlib, U.S. Navy), J. Biden and
B. Obama (face-recognition, the White House), all in the public domain, and L. P. Coelho (mahotas, MIT licence).
`$IDGRPO_FACE_PHOTOS` may name a folder with one folder a person of further ones.
"""

import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from idgrpo.people.align import face_crop
from idgrpo.people.contract import Detection, Levels
from idgrpo.people.faces import FaceFinder

SIZE = (240, 416)
NUM_FRAMES = 25
PORTRAIT_PX, FAR_PX = 130, 100
PHOTO_ROOTS = (Path(sys.prefix) / "face-photos", Path(sysconfig.get_paths()["purelib"]))
SHIPPED = {
    "biden": "face_recognition-*/tests/test_images/biden.jpg",
    "obama": "face_recognition-*/tests/test_images/obama[.23]*",
    "coelho": "mahotas/demos/data/luispedro.jpg",
}


class DlibEmbedder:
    """dlib's ResNet (99.38 % on LFW), minus the mean of a hundred faces: raw, strangers reach a cosine of 0.88."""

    crop_size = 150
    levels = Levels(same_person=0.6, stranger=0.35)

    def __init__(self) -> None:
        dlib = pytest.importorskip("dlib")
        spec = importlib.util.find_spec("face_recognition_models")
        if spec is None or spec.origin is None:
            pytest.skip("needs face-recognition-models")
        path = Path(spec.origin).parent / "models" / "dlib_face_recognition_resnet_model_v1.dat"
        self.net = dlib.face_recognition_model_v1(str(path))
        self.mean = np.zeros(128, np.float32)
        self.mean = self.raw(_lfw(self.crop_size)).mean(0)

    def fingerprint(self) -> str:
        return "dlib_face_recognition_resnet_model_v1 minus the mean of scikit-image's lfw_subset"

    def crop(self, image: torch.Tensor, box, landmarks) -> torch.Tensor:
        """Cut as dlib's `get_face_chip` does (150 px, padding 0.25): eyes at 0.31 of the height, 0.35 of the width apart."""
        return face_crop(image, box, landmarks, self.crop_size, span=0.898, lower=0.128)

    def raw(self, crops: torch.Tensor) -> np.ndarray:
        chips = [crop.permute(1, 2, 0).contiguous().numpy() for crop in crops]
        vectors = np.array(self.net.compute_face_descriptor(chips), np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def embed(self, crops: torch.Tensor) -> np.ndarray:
        vectors = self.raw(crops) - self.mean
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class AsItComes(DlibEmbedder):
    """The same network on the square around the box: no alignment."""

    def crop(self, image: torch.Tensor, box, landmarks) -> torch.Tensor:
        return face_crop(image, box, None, self.crop_size)


def _lfw(size: int) -> torch.Tensor:
    """Give a hundred faces of as many people (25 px, grey), uint8 [100, 3, size, size]."""
    faces = torch.from_numpy(pytest.importorskip("skimage.data").lfw_subset()[:100]).float()[:, None] * 255
    large = interpolate(faces, size=(size, size), mode="bicubic", align_corners=False)
    return large.round().clamp(0, 255).byte().repeat(1, 3, 1, 1)


class RememberingFinder(FaceFinder):
    """Looks at equal frames once: the kinds of clips and the sides of pairs share many."""

    seen: dict[bytes, list[Detection]]

    def find(self, clip: torch.Tensor) -> list[list[Detection]]:
        keys = [hashlib.sha256(repr(frame.shape).encode() + frame.numpy().tobytes()).digest() for frame in clip]
        new = [k for k, key in enumerate(keys) if key not in self.seen and keys.index(key) == k]
        if new:
            self.seen.update(zip([keys[k] for k in new], super().find(clip[new]), strict=True))
        return [[replace(d, frame=k) for d in self.seen[key]] for k, key in enumerate(keys)]


@lru_cache
def finder() -> FaceFinder:
    found = RememberingFinder(DlibEmbedder(), min_face_px=40)
    found.seen = {}
    return found


def _opened(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@lru_cache
def photographs() -> dict[str, list[torch.Tensor]]:
    """Give photos by person, heads and shoulders, uint8 [3, side, side]: the first is the reference, the others are for clips.

    Who has one photo only gets a second that is the first mirrored, in other light.
    """
    import matplotlib.cbook

    astronaut = pytest.importorskip("skimage.data").astronaut()
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        hopper = np.asarray(Image.open(file).convert("RGB"))
    found = {"collins": [astronaut], "hopper": [hopper]}
    for person, pattern in SHIPPED.items():
        if files := sorted(path for root in PHOTO_ROOTS for path in root.glob(pattern)):
            found[person] = [_opened(path) for path in files]
    folder = os.environ.get("IDGRPO_FACE_PHOTOS")
    for person in sorted(Path(folder).iterdir()) if folder else []:
        if person.is_dir():
            found[person.name] = [_opened(path) for path in sorted(person.iterdir())]
    people = {
        name: [_head(torch.from_numpy(p.copy()).permute(2, 0, 1)) for p in photos] for name, photos in found.items()
    }
    for photos in people.values():
        if len(photos) == 1:
            photos.append((photos[0].flip(2).float() * 0.85 + 12).byte())
    return people


def _head(photo: torch.Tensor) -> torch.Tensor:
    """Cut the square of 2.6 face heights around the largest face, resized to 300 px."""
    scale = max(1.0, max(photo.shape[1:]) / 700)
    size = (round(photo.shape[1] / scale), round(photo.shape[2] / scale))
    photo = interpolate(photo[None].float(), size=size, mode="bilinear", antialias=True)[0].round().byte()
    boxes = [d.box for d in FaceFinder(False).find(photo[None])[0]]
    left, top, right, bottom = max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
    half = round(1.3 * (bottom - top) / 2 * 1.55)
    x, y = round((left + right) / 2), round((top + bottom) / 2 + 0.15 * (bottom - top))
    rows = (torch.arange(2 * half) + y - half).clamp(0, photo.shape[1] - 1)
    columns = (torch.arange(2 * half) + x - half).clamp(0, photo.shape[2] - 1)
    return interpolate(photo[:, rows][:, :, columns][None].float(), size=(300, 300), mode="bilinear", antialias=True)[
        0
    ].byte()


def turned(photo: torch.Tensor, degrees: float, size: int) -> torch.Tensor:
    """Turn and resize a photo: uint8 [3, size, size]; corners repeat the edge."""
    side = photo.shape[-1]
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * side / size
    steps = torch.arange(size) + 0.5 - size / 2
    places = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).double() @ torch.from_numpy(turn.T)
    small = interpolate(photo[None].float(), size=(size, size), mode="bilinear", antialias=True)
    grid = (places * 2 / side)[None].float()
    return torch.nn.functional.grid_sample(small, grid, padding_mode="border", align_corners=False)[0].round().byte()


def grounds() -> list[torch.Tensor]:
    """Give photographed backgrounds, uint8 [3, 240, 416]."""
    data = pytest.importorskip("skimage.data")
    pictures = [data.rocket(), data.coffee(), data.chelsea()]
    tensors = [torch.from_numpy(np.array(p)).permute(2, 0, 1).float()[None] for p in pictures]
    return [interpolate(t, size=SIZE, mode="bilinear", antialias=True)[0].round().byte() for t in tensors]


@dataclass(frozen=True)
class FaceClip:
    """A clip uint8 [25, 3, 240, 416] with who is in it and a reference photo of each."""

    people: tuple[str, str]
    pixels: torch.Tensor
    references: list[torch.Tensor]


Cast = list[torch.Tensor]
"""Heads and shoulders uint8 [3, 300, 300], one a slot; slot 0 walks from left to right, slot 1 sways at the right."""


def shown(
    cast: Callable[[int], Cast], ground: torch.Tensor, number: int = 0, still: bool = False, far: bool = False
) -> torch.Tensor:
    """Draw a clip of who is cast in each frame, before a background: uint8 [25, 3, 240, 416].

    All nod, unless `still`; `far` away they are smaller, and the first walks so far that what was behind shows.
    """
    size, right, walk = (FAR_PX, 312, 165) if far else (PORTRAIT_PX, 262, 120)
    rows = (torch.arange(size) + 0.5 - size / 2) / (size / 2)
    soft = ((1 - (rows[:, None] ** 2 + rows[None] ** 2).sqrt()) / 0.1).clamp(0, 1)
    frames = []
    for t in range(NUM_FRAMES):
        frame, share = ground.float().clone(), 0.0 if still else t / (NUM_FRAMES - 1)
        for slot, cutout in enumerate(cast(t)):
            angle = 0.0 if still else 8 * np.sin(6 * share + slot + number)
            face = turned(cutout, angle, size).float()
            x = (
                round(10 * (not far) + walk * share)
                if slot == 0
                else round(right + (2 if far else 12) * np.sin(5 * share))
            )
            y = round(60 + 6 * np.sin(7 * share + 2 * slot))
            part = frame[:, y : y + size, x : x + size]
            frame[:, y : y + size, x : x + size] = part + soft * (face - part)
        frames.append(frame.round().clamp(0, 255).byte())
    return torch.stack(frames)


def take_of(name: str, number: int) -> torch.Tensor:
    """Give a photo of a person that is not the reference."""
    photos = photographs()[name]
    return photos[1 + number % (len(photos) - 1)]


def make_clip(people: tuple[str, str], ground: torch.Tensor, number: int = 0, far: bool = False) -> FaceClip:
    """Move two people: the first from left to right, the second a little; both nod and sway."""
    takes = [take_of(name, number) for name in people]
    pixels = shown(lambda t: takes, ground, number, far=far)
    return FaceClip(people, pixels, [photographs()[name][0] for name in people])


def kinds_of_clips(people: tuple[str, str], ground: torch.Tensor, number: int = 0) -> dict[str, torch.Tensor]:
    """Show the same case rightly and wrongly: clips uint8 [25, 3, 240, 416] by kind."""
    first, second = takes = [take_of(name, number) for name in people]
    photos = [photographs()[name][0] for name in people]
    others = [take_of(name, number) for name in photographs() if name not in people]
    both = ((first.float() + second.float()) / 2).byte()
    good = shown(lambda t: takes, ground, number)
    noise = torch.randn(good.shape, generator=torch.Generator().manual_seed(number)) * 6
    blurred = torch.nn.functional.avg_pool2d(good.float(), (1, 13), 1, (0, 6), count_include_pad=False)
    return {
        "good": good,
        "strangers": shown(lambda t: others[:2], ground, number),
        "one stranger": shown(lambda t: [first, others[0]], ground, number),
        "swapped half-way": shown(lambda t: takes if t < NUM_FRAMES // 2 else takes[::-1], ground, number),
        "one missing": shown(lambda t: [first], ground, number),
        "duplicated": shown(lambda t: [first, first], ground, number),
        "blended": shown(lambda t: [both, both], ground, number),
        "dark, noise": (good.float() * 0.35 + noise).round().clamp(0, 255).byte(),
        "motion blur 13 px": blurred.round().clamp(0, 255).byte(),
        "reference frozen": shown(lambda t: photos, ground, still=True),
        "filmed from the reference": shown(lambda t: photos, ground, number),
    }


def all_cases() -> list[tuple[tuple[str, str], torch.Tensor, int]]:
    """Give each two people, over backgrounds in turn, with a number; of all cases at most `$IDGRPO_FACE_CASES`, evenly spaced."""
    names = list(photographs())
    pairs = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    pictures = grounds()
    most = min(len(pairs), int(os.environ.get("IDGRPO_FACE_CASES", len(pairs))))
    chosen = [round(k * (len(pairs) - 1) / max(most - 1, 1)) for k in range(most)]
    return [(pairs[k], pictures[k % len(pictures)], k) for k in chosen]

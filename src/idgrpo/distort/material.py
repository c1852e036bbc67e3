"""Cut people out in a canonical frame and put them back, those of this clip and strangers of other clips.

A canonical crop is a square of `SPAN` box sides around a person, upright. Its size in pixels is the size the person has in the
source, never more, so that cutting and putting back costs the same sharpness for everybody who goes through it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

from idgrpo.distort.located import Covers, Located
from idgrpo.distort.pixels import ellipse
from idgrpo.people.align import affine_transform
from idgrpo.records.remember import remembered

SPAN = 1.5
MAX_CROP_PX = 160
MAX_CROPS = 32

# Parts as ellipses relative to a box (center x, y, radius x, y; units of half the box's width and height).
PARTS: dict[Covers, dict[str, tuple[float, float, float, float]]] = {
    "face": {
        "hair": (0.0, -1.15, 1.1, 0.55),
        "skin": (0.0, 0.1, 0.8, 0.9),
        "clothes": (0.0, 3.0, 2.0, 1.5),
        "eyes": (0.0, -0.25, 0.85, 0.4),
        "mouth": (0.0, 0.5, 0.65, 0.45),
    },
    "person": {"hair": (0.0, -0.85, 0.5, 0.18), "skin": (0.0, -0.62, 0.4, 0.16), "clothes": (0.0, 0.15, 0.8, 0.65)},
}

# These are cut out of the donor's face; of the others only the colour moves, which a recognition network hardly looks at.
CUT_PARTS = ("eyes", "mouth")


@dataclass(frozen=True)
class Pose:
    """Place a person: middle, side (geometric mean of the box's sides) in pixels, roll in radians."""

    x: float
    y: float
    side: float
    angle: float


@dataclass(frozen=True)
class Material:
    """Hold what is needed to paint one person elsewhere.

    `crops` uint8 [crop, 3, size, size] at `frames` [crop]; `mask` float32 [crop, size, size]; `colors` of parts, RGB; `points`
    float32 [crop, 5, 2] landmarks in the square (-1..1), NaN where unknown.
    """

    crops: torch.Tensor
    masks: torch.Tensor
    frames: np.ndarray
    colors: dict[str, tuple[float, float, float]]
    points: np.ndarray

    def save(self, path: Path) -> None:
        """Write as npz."""
        names = sorted(self.colors)
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                crops=self.crops.numpy(),
                masks=(self.masks * 255).round().to(torch.uint8).numpy(),
                frames=self.frames,
                names=np.array(names),
                colors=np.array([self.colors[name] for name in names], np.float32).reshape(-1, 3),
                points=self.points,
            )

    @classmethod
    def load(cls, path: Path) -> "Material":
        """Read what `save` wrote."""
        with np.load(path) as held:
            colors = {str(n): _rgb(c.tolist()) for n, c in zip(held["names"], held["colors"], strict=True)}
            masks = torch.from_numpy(held["masks"]).float() / 255
            return cls(torch.from_numpy(held["crops"]), masks, held["frames"], colors, held["points"])


def pose_at(located: Located, slot: int, frame: int) -> Pose | None:
    """Give a person's pose in a frame; None where unknown."""
    box = located.boxes[slot, frame]
    if np.isnan(box).any():
        return None
    width, height = box[2] - box[0], box[3] - box[1]
    side = float(np.sqrt(max(width * height, 1.0)))
    return Pose(float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2, side, float(located.angles[slot, frame]))


def crop_size(side_px: float) -> int:
    """Say how many pixels a canonical crop has for a person of this size."""
    return int(np.clip(round(side_px * SPAN), 8, MAX_CROP_PX))


def cut(image: torch.Tensor, pose: Pose, size: int) -> torch.Tensor:
    """Resample the canonical square of a pose out of an image [c, h, w]: float32 [c, size, size]."""
    height, width = image.shape[-2:]
    steps = (torch.arange(size, dtype=torch.float32) + 0.5) / size - 0.5
    v, u = torch.meshgrid(steps * pose.side * SPAN, steps * pose.side * SPAN, indexing="ij")
    cos, sin = float(np.cos(pose.angle)), float(np.sin(pose.angle))
    x, y = pose.x + cos * u - sin * v, pose.y + sin * u + cos * v
    # Only the part of the image around the square is touched: frames are large and people small.
    reach = pose.side * SPAN * 0.75 + 2
    left, top = int(np.clip(pose.x - reach, 0, width - 1)), int(np.clip(pose.y - reach, 0, height - 1))
    right, bottom = int(np.clip(pose.x + reach + 1, left + 1, width)), int(np.clip(pose.y + reach + 1, top + 1, height))
    part = image[:, top:bottom, left:right].float()[None]
    shrink = pose.side * SPAN / size
    if shrink > 1.5:
        new = (max(1, round(part.shape[2] / shrink)), max(1, round(part.shape[3] / shrink)))
        part = interpolate(part, size=new, mode="bilinear", align_corners=False, antialias=True)
    grid = torch.stack([(x - left) * 2 / (right - left) - 1, (y - top) * 2 / (bottom - top) - 1], dim=-1)
    return grid_sample(part, grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]


def points_in_square(located: Located, slot: int, frame: int) -> np.ndarray:
    """Give a person's landmarks in the canonical square, float32 [5, 2] in -1..1; NaN where unknown."""
    pose = pose_at(located, slot, frame)
    if located.landmarks is None or pose is None:
        return np.full((5, 2), np.nan, np.float32)
    across, down = (located.landmarks[slot, frame] - (pose.x, pose.y)).T * 2 / (pose.side * SPAN)
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    return np.stack([cos * across + sin * down, -sin * across + cos * down], axis=-1).astype(np.float32)


def fitted(own: np.ndarray, donor: np.ndarray) -> np.ndarray | None:
    """Fit the map [2, 3] from the square of one person to that of another under which their landmarks meet.

    None where landmarks are unknown or the map would be no small one (a detector's mistake): then squares are laid on each other.
    """
    if not (np.isfinite(own).all() and np.isfinite(donor).all()) or np.ptp(own, axis=0).max() < 0.05:
        return None
    warp = affine_transform(own, donor)
    scale = np.sqrt(max(float(np.linalg.det(warp[:, :2])), 0.0))
    return warp if 0.6 < scale < 1.67 and np.abs(warp[:, 2]).max() < 0.6 else None


def placed(
    crop: torch.Tensor, pose: Pose, height: int, width: int, warp: np.ndarray | None = None
) -> tuple[torch.Tensor, tuple[slice, slice]] | None:
    """Resample a canonical crop [c, size, size] into the frame: float32 [c, roi height, roi width] and where that is.

    `warp` [2, 3] says where in the crop (-1..1) a place of the square lies. None when the square lies outside of the frame.
    Outside of the square the result is 0; with a warp the last channel, a mask, ends before the border.
    """
    half = pose.side * SPAN / 2
    reach = half * (abs(np.cos(pose.angle)) + abs(np.sin(pose.angle)))
    left, right = max(0, int(np.floor(pose.x - reach))), min(width, int(np.ceil(pose.x + reach)))
    top, bottom = max(0, int(np.floor(pose.y - reach))), min(height, int(np.ceil(pose.y + reach)))
    if left >= right or top >= bottom:
        return None
    size = crop.shape[-1]
    wanted = pose.side * SPAN
    if size / wanted > 1.5:
        new = max(4, round(wanted))
        crop = interpolate(crop[None], size=(new, new), mode="bilinear", align_corners=False, antialias=True)[0]
    rows = torch.arange(top, bottom, dtype=torch.float32) + 0.5 - pose.y
    columns = torch.arange(left, right, dtype=torch.float32) + 0.5 - pose.x
    cos, sin = float(np.cos(pose.angle)), float(np.sin(pose.angle))
    u = (cos * columns[None] + sin * rows[:, None]) / half
    v = (-sin * columns[None] + cos * rows[:, None]) / half
    grid = torch.stack([u, v], dim=-1)[None]
    if warp is not None:
        grid = grid @ torch.from_numpy(warp[:, :2].T).float() + torch.from_numpy(warp[:, 2]).float()
    patch = grid_sample(crop[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    if warp is not None:
        patch[-1] *= ((1 - torch.maximum(u.abs(), v.abs())) / 0.12).clamp(0, 1)
    return patch, (slice(top, bottom), slice(left, right))


def canonical_mask(located: Located, slot: int, frame: int, size: int) -> torch.Tensor:
    """Give the feathered mask of a person in the canonical square, float32 [size, size].

    From the finder's mask where there is one, otherwise an ellipse a little larger than the box.
    """
    pose = pose_at(located, slot, frame)
    if located.masks is not None and located.seen[slot, frame] and pose is not None:
        image = torch.from_numpy(located.masks[slot, frame]).float()[None] / 255
        return edge_faded(cut(image, pose, size)[0].clamp(0, 1))
    box = located.boxes[slot, frame]
    aspect = float(np.sqrt((box[2] - box[0]) / max(box[3] - box[1], 1e-3)))
    half = size / SPAN / 2
    soft = ellipse(size, size, size / 2, size / 2, half * aspect * 1.15, half / aspect * 1.15, 0.35)
    return edge_faded(soft)


def edge_faded(mask: torch.Tensor) -> torch.Tensor:
    """Let a mask end before the border of its square."""
    size = mask.shape[-1]
    steps = torch.minimum(torch.arange(size) + 0.5, size - 0.5 - torch.arange(size)) / (0.06 * size)
    return mask * (torch.minimum(steps[:, None], steps[None]) - 0.25).clamp(0, 1)


def part_mask(
    located: Located, slot: int, frame: int, part: str, height: int, width: int
) -> tuple[torch.Tensor, tuple[slice, slice]] | None:
    """Give the soft region of a part in a frame, float32 [roi height, roi width], and where that is; None when nowhere."""
    box = located.boxes[slot, frame]
    if np.isnan(box).any():
        return None
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_w, half_h = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    dx, dy, rx, ry = PARTS[located.covers][part]
    x, y, rx, ry = float(x + dx * half_w), float(y + dy * half_h), float(rx * half_w), float(ry * half_h)
    left, right = max(0, int(x - rx)), min(width, int(x + rx) + 1)
    top, bottom = max(0, int(y - ry)), min(height, int(y + ry) + 1)
    if left >= right or top >= bottom:
        return None
    where = (slice(top, bottom), slice(left, right))
    soft = ellipse(bottom - top, right - left, x - left, y - top, rx, ry, 0.4)
    if located.masks is not None and located.covers == "person":
        soft = soft * torch.from_numpy(located.masks[slot, frame][where]).float() / 255
    return soft, where


def part_colors(
    clip: torch.Tensor, located: Located, slot: int, frames: list[int]
) -> dict[str, tuple[float, float, float]]:
    """Average the colour of each part over some frames."""
    height, width = clip.shape[-2:]
    colors: dict[str, tuple[float, float, float]] = {}
    for part in PARTS[located.covers]:
        total, weight = torch.zeros(3), 0.0
        for frame in frames:
            put = part_mask(located, slot, frame, part, height, width)
            if put is not None:
                mask, (rows, columns) = put
                total += (clip[frame, :, rows, columns].float() * mask).sum((1, 2))
                weight += float(mask.sum())
        if weight > 1:
            colors[part] = _rgb((total / weight).tolist())
    return colors


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def material_of(
    clip: torch.Tensor, located: Located, slot: int, max_crops: int = MAX_CROPS, size: int | None = None
) -> Material:
    """Cut one person out of a clip, at most `max_crops` frames spread over those in which the person is seen."""
    seen = np.flatnonzero(located.seen[slot] & ~np.isnan(located.boxes[slot]).any(-1))
    frames = seen[np.unique(np.linspace(0, len(seen) - 1, min(max_crops, len(seen))).round().astype(int))]
    # Frames with a box have a pose.
    poses = [pose for frame in frames if (pose := pose_at(located, slot, int(frame))) is not None]
    size = size or crop_size(float(np.median([pose.side for pose in poses])))
    crops = torch.stack([cut(clip[int(f)], pose, size) for f, pose in zip(frames, poses, strict=True)])
    masks = torch.stack([canonical_mask(located, slot, int(f), size) for f in frames])
    colors = part_colors(clip, located, slot, [int(f) for f in frames[:: max(1, len(frames) // 4)]])
    points = np.stack([points_in_square(located, slot, int(f)) for f in frames])
    return Material(crops.round().clamp(0, 255).to(torch.uint8), masks, frames, colors, points)


@dataclass(frozen=True)
class GalleryEntry:
    """Name one person of one clip and where the crops are."""

    key: str
    person: str
    embedding: np.ndarray
    material: Path


class Gallery:
    """Choose strangers by identity and by likeness.

    Entries are kept in the order of their keys, so that the choice does not depend on who found them first. Whoever is more alike
    than `max_likeness` (cosine) is taken for the same person under another name: nobody says that two videos show different people.
    """

    def __init__(self, entries: list[GalleryEntry], max_likeness: float = 1.0):
        self.max_likeness = max_likeness
        self.entries = {entry.key: entry for entry in sorted(entries, key=lambda e: e.key)}

    def choose(self, persons: list[str], embedding: np.ndarray, hardness: float, draw: int) -> str | None:
        """Give the key of somebody who is none of `persons`.

        The candidates are the (1 - hardness) share most like `embedding` (never less than one): hardness 0 is anybody, 1 the
        closest look-alike.
        """
        others = [entry for entry in self.entries.values() if entry.person not in persons]
        table = [entry for entry in others if float(entry.embedding @ embedding) <= self.max_likeness + 1e-6]
        if not table:
            return None
        likeness = [float(entry.embedding @ embedding) for entry in table]
        order = np.argsort(np.negative(likeness), kind="stable")
        count = max(1, round(len(table) * (1 - hardness)))
        return table[int(order[draw % count])].key

    def material(self, key: str) -> Material:
        """Read a stranger's crops."""
        return _load(self.entries[key].material)


@remembered(maxsize=64)
def _load(path: Path) -> Material:
    return Material.load(path)

"""Distortions that hide a person: an object in front, or the reference pasted in and frozen."""

import numpy as np
import torch
from torch.nn.functional import interpolate

from idgrpo.distort.contract import NotPossible, Outcome, Scene, some_slots, window
from idgrpo.distort.pixels import composite, ellipse, texture
from idgrpo.people.boxes import Box, covering

FACE_SPAN = 1.5  # how much around a face belongs to a pasted portrait


def region_boxes(regions: torch.Tensor, slot: int) -> list[Box | None]:
    """Give the box around a slot's region in each frame; None where nothing of the person is visible."""
    return [covering(frame[slot].numpy(), 0.3) for frame in regions]


def occlude(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Hold an object before the upper part of one person for a share of the frames; it moves with the person.

    On the better side the same object passes beside everybody, in the same frames: the object alone says nothing.
    """
    (slot,) = some_slots(scene, 1, rng)
    frames = window(scene.num_frames, strength, rng)
    height, width = scene.clip.shape[-2:]
    surface = texture(height, width, rng)
    stretch = rng.uniform(0.9, 1.2, size=2)
    regions = scene.regions
    found = region_boxes(regions, slot)
    boxes = {int(t): box for t in frames if (box := found[t]) is not None}
    beside = _beside(regions, boxes)
    masks = [torch.zeros(scene.num_frames, height, width) for _ in range(2)]
    for frame, box in boxes.items():
        masks[0][frame] = cover_of(box, height, width, stretch)
        moved = (box[0] + beside, box[1], box[2] + beside, box[3])
        masks[1][frame] = cover_of(moved, height, width, stretch) * (regions[frame].amax(0) < 0.02)
    worse, better = (composite(scene.clip, surface.expand_as(scene.clip), mask) for mask in masks)
    return Outcome(better, worse)


def _beside(regions: torch.Tensor, boxes: dict[int, Box]) -> float:
    """Say how far to move boxes sideways (pixels) so that they cover as little as possible of anybody and stay in the frame."""
    if not boxes:
        return 0.0
    width = regions.shape[-1]
    left, right = min(box[0] for box in boxes.values()), max(box[2] for box in boxes.values())
    taken = torch.stack([regions[frame].amax(0).amax(0) for frame in boxes]).amax(0)
    best = (float("inf"), 0.0)
    for offset in range(int(-left), int(width - right) + 1, max(1, width // 32)):
        covered = sum(float(taken[max(0, int(b[0] + offset)) : int(b[2] + offset) + 1].sum()) for b in boxes.values())
        best = min(best, (covered, float(offset)))
    return best[1]


def cover_of(box: Box, height: int, width: int, stretch: np.ndarray) -> torch.Tensor:
    """Draw the occluder's mask: an ellipse over the upper six tenths of a box."""
    tall = (box[3] - box[1]) * 0.6
    return ellipse(
        height,
        width,
        (box[0] + box[2]) / 2,
        box[1] + tall / 2,
        (box[2] - box[0]) * 0.62 * stretch[0],
        tall * 0.62 * stretch[1],
        0.25,
    )


def paste(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Paste the reference over its person, frozen in place, for a share of the frames: a copy must lose to a natural clip.

    Where the face in the reference is known, its surroundings alone are pasted, in the size of the face in the clip.
    """
    (slot,) = some_slots(scene, 1, rng)
    frames = window(scene.num_frames, strength, rng)
    if slot >= len(scene.references):
        raise NotPossible("no portrait of the person", slot)
    seen = [box for box in region_boxes(scene.regions, slot) if box is not None]
    if not seen:
        raise NotPossible("the person is not visible", slot)
    # Frozen where the person is in the middle of the clip, large enough to cover the person there.
    box = seen[len(seen) // 2]
    height, width = scene.clip.shape[-2:]
    face = scene.faces[slot] if slot < len(scene.faces) else None
    portrait = scene.references[slot]
    if face is not None:
        portrait, box = cropped(portrait, face), _grown(box, FACE_SPAN / 1.15)  # a region is an ellipse of 1.15 boxes
    surface, mask = _placed(portrait, box, height, width)
    masks = torch.zeros(scene.num_frames, height, width)
    masks[frames] = mask
    return Outcome(scene.clip, composite(scene.clip, surface.expand_as(scene.clip), masks))


def _grown(box: Box, factor: float) -> Box:
    """Enlarge a box around its middle."""
    x, y, wide, tall = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
    return (x - wide * factor / 2, y - tall * factor / 2, x + wide * factor / 2, y + tall * factor / 2)


def cropped(portrait: torch.Tensor, face: Box) -> torch.Tensor:
    """Cut a face with hair and chin out of a photograph uint8 [3, height, width], as far as the picture goes."""
    height, width = portrait.shape[-2:]
    left, top, right, bottom = _grown(face, FACE_SPAN)
    rows = slice(max(0, int(top)), max(2, min(height, int(np.ceil(bottom)))))
    columns = slice(max(0, int(left)), max(2, min(width, int(np.ceil(right)))))
    return portrait[:, rows, columns]


def _placed(portrait: torch.Tensor, box: Box, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Put a portrait over a box, keeping its aspect: (uint8 [3, height, width], feathered mask [height, width])."""
    tall, wide = portrait.shape[-2:]
    scale = max((box[3] - box[1]) / tall, (box[2] - box[0]) / wide)
    size = (max(2, min(height, round(tall * scale))), max(2, min(width, round(wide * scale))))
    small = interpolate(portrait[None].float(), size=size, mode="bilinear", align_corners=False, antialias=True)[0]
    top = int(np.clip(round((box[1] + box[3]) / 2 - size[0] / 2), 0, height - size[0]))
    left = int(np.clip(round((box[0] + box[2]) / 2 - size[1] / 2), 0, width - size[1]))
    surface = torch.zeros(3, height, width)
    surface[:, top : top + size[0], left : left + size[1]] = small
    rows = torch.minimum(torch.arange(size[0]) + 1, size[0] - torch.arange(size[0])).float()
    columns = torch.minimum(torch.arange(size[1]) + 1, size[1] - torch.arange(size[1])).float()
    edge = max(1.0, min(size) * 0.08)
    soft = (torch.minimum(rows[:, None], columns[None]) / edge).clamp(0, 1)
    mask = torch.zeros(height, width)
    mask[top : top + size[0], left : left + size[1]] = soft
    return surface.round().clamp(0, 255).to(torch.uint8), mask

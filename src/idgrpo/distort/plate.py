"""How far a person reaches, and what is behind: the background of a clip, from the frames in which it shows."""

import torch
from torch.nn.functional import avg_pool2d, interpolate

from idgrpo.distort.contract import NotPossible
from idgrpo.distort.located import Covers
from idgrpo.distort.material import Pose

MAX_FRAMES = 16
MIN_KNOWN = 0.8
MAX_UNREST = 14.0


def background_plate(clip: torch.Tensor, bodies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average over time the pixels in which nobody stands (a median costs ten times as much and a still ground needs none).

    `bodies` bool [frame, height, width]. Gives (float32 [3, height, width], known bool [height, width]); unknown pixels are 0.
    """
    total = torch.zeros(clip.shape[1:])
    count = torch.zeros(clip.shape[-2:])
    for frame, hidden in zip(clip, bodies, strict=True):
        free = (~hidden).float()
        total += frame * free
        count += free
    return total / count.clamp(min=1), count > 0


def filled(plate: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Fill unknown pixels of float32 [3, height, width] from a coarser picture of the known ones, level by level (pull-push)."""
    if bool(known.all()) or not bool(known.any()):
        return plate
    weight = known.float()[None, None]
    values = plate[None] * weight
    # Half the size: each pixel the mean of the known ones below it.
    mass = avg_pool2d(weight, 2, ceil_mode=True)
    coarse = filled((avg_pool2d(values, 2, ceil_mode=True) / mass.clamp(min=1e-6))[0], mass[0, 0] > 0)
    smooth = interpolate(coarse[None], size=plate.shape[-2:], mode="bilinear", align_corners=False)[0]
    return torch.where(known, plate, smooth)


def usable_plate(clip: torch.Tensor, bodies: torch.Tensor, needed: torch.Tensor) -> torch.Tensor:
    """Give a plate float32 [3, height, width] good enough to stand in for `needed` bool [height, width].

    Raises NotPossible when too little of it ever shows, or when the background does not stay (a moving camera): a hole with a
    wrong filling is an artefact, not a missing person.
    """
    plate, known = background_plate(clip, bodies)
    share = float((known & needed).sum() / needed.sum().clamp(min=1))
    if share < MIN_KNOWN:
        raise NotPossible(f"only {share:.0%} of what is behind the person ever shows")
    # A camera that moves is seen in every fourth pixel as well as in all.
    few = (..., slice(None, None, 4), slice(None, None, 4))
    free = (~bodies & known[None])[few].float()
    unrest = ((clip[few].float() - plate[few]).abs().mean(1) * free).sum() / free.sum().clamp(min=1)
    if float(unrest) > MAX_UNREST:
        raise NotPossible("the background moves: nothing to put where the person was")
    return filled(plate, known)


def column(pose: Pose, rows: slice, columns: slice) -> torch.Tensor:
    """Draw head and body below a face, float32 over a part of the frame."""
    down = (torch.arange(rows.start, rows.stop, dtype=torch.float32) + 0.5 - pose.y) / pose.side
    aside = (torch.arange(columns.start, columns.stop, dtype=torch.float32) + 0.5 - pose.x).abs() / pose.side
    half_width = torch.where(down < 0.6, torch.tensor(0.95), torch.tensor(1.9))
    across = ((half_width[:, None] - aside[None]) / 0.25).clamp(0, 1)
    inside = ((down + 1.1) / 0.2).clamp(0, 1) * ((7.5 - down) / 0.3).clamp(0, 1)
    return across * inside[:, None]


def around(poses: list[Pose], covers: Covers, height: int, width: int) -> tuple[slice, slice]:
    """Give the part of the frame in which a whole person with these poses stays."""
    down, across = (8, 2.3) if covers == "face" else (1.2, 1.2)
    if not poses:
        return slice(0, 1), slice(0, 1)
    top = min(p.y - 1.6 * p.side for p in poses)
    bottom = max(p.y + down * p.side for p in poses)
    left = min(p.x - across * p.side for p in poses)
    right = max(p.x + across * p.side for p in poses)
    return (
        slice(max(0, int(top)), min(height, int(bottom) + 1)),
        slice(max(0, int(left)), min(width, int(right) + 1)),
    )

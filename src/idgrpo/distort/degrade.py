"""Distortions that keep who is who: one person unrecognisable (blur, shrink, recompress, warp), or time broken (freeze, shuffle).

The first teach that a degraded face is worse, and a reward model that sees only these learns "artefact = loser": they are not
in the default mix, and `BalanceConfig` puts the same artefacts on better sides. The preferences of the others carry the dimension
`motion`.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import grid_sample

from idgrpo.distort.contract import Outcome, Scene, some_slots
from idgrpo.distort.pixels import blurred, composite, downscaled, extent, gaussian, recompressed


def person_side(scene: Scene, slot: int) -> float:
    """Give the square root of the person's mean area in pixels: artefacts scale with it."""
    return float(scene.regions[:, slot].sum((1, 2)).mean().clamp(min=1) ** 0.5)


Where = tuple[slice, slice]


def _degraded(
    scene: Scene, slot: int, reach_px: float, damage: Callable[[torch.Tensor, Where], torch.Tensor]
) -> Outcome:
    """Damage one person, feathered outwards, frame by frame in the part of the frame where the person is.

    `damage` makes uint8 [1, 3, rows, columns] out of as much, `reach_px` more on every side than will be seen. Parts begin at
    multiples of 16 pixels, where blocks of a codec begin.
    """
    feather = min(scene.clip.shape[-2:]) * 0.015
    grow = int(np.ceil(3 * feather + reach_px)) + 1
    worse = scene.clip.clone()
    for frame, region in enumerate(scene.regions[:, slot]):
        where = extent(region)
        if where is not None:
            rows, columns = (slice(max(0, side.start - grow) // 16 * 16, side.stop + grow) for side in where)
            mask = gaussian(region[None, None, rows, columns], feather)[0].clamp(0, 1)
            part = scene.clip[frame, None, :, rows, columns]
            worse[frame, None, :, rows, columns] = composite(part, damage(part, (rows, columns)), mask)
    return Outcome(scene.clip, worse)


def blur_person(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Blur one person, up to a sixth of the person's size."""
    (slot,) = some_slots(scene, 1, rng)
    if strength == 0:
        return Outcome(scene.clip, scene.clip)
    sigma = strength * person_side(scene, slot) / 6
    return _degraded(scene, slot, 3 * sigma, lambda part, where: blurred(part, sigma))


def downscale_person(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Show one person at a lower resolution, down to five pixels across."""
    (slot,) = some_slots(scene, 1, rng)
    if strength == 0:
        return Outcome(scene.clip, scene.clip)
    factor = max(person_side(scene, slot) / 5, 1.5) ** strength
    return _degraded(scene, slot, factor, lambda part, where: downscaled(part, factor))


def recompress_person(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Recompress one person with blocks, down to JPEG quality 3."""
    (slot,) = some_slots(scene, 1, rng)
    if strength == 0:
        return Outcome(scene.clip, scene.clip)
    return _degraded(scene, slot, 16, lambda part, where: recompressed(part, round(80 - 77 * strength)))


def warp_person(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Bend one person by a smooth random field that keeps for the whole clip, up to a third of the person's size."""
    (slot,) = some_slots(scene, 1, rng)
    height, width = scene.clip.shape[-2:]
    field = torch.from_numpy(rng.normal(size=(1, 2, height, width)).astype(np.float32))
    if strength == 0:
        return Outcome(scene.clip, scene.clip)
    side = person_side(scene, slot)
    field = gaussian(field, side / 8)
    field = field / field.abs().amax() * strength * 0.35 * side

    def bent(part: torch.Tensor, where: Where) -> torch.Tensor:
        tall, wide = part.shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(tall) + 0.5, torch.arange(wide) + 0.5, indexing="ij")
        across, down = field[0][:, *where]
        grid = torch.stack([(columns + across) * 2 / wide - 1, (rows + down) * 2 / tall - 1], dim=-1)
        pulled = grid_sample(part.float(), grid[None], mode="bilinear", padding_mode="border", align_corners=False)
        return pulled.round().clamp(0, 255).to(torch.uint8)

    return _degraded(scene, slot, 0.35 * side, bent)


def freeze(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Hold one frame until the end of the clip, up to the whole clip."""
    count = round(strength * (scene.num_frames - 1))
    order = np.arange(scene.num_frames)
    order[scene.num_frames - count :] = scene.num_frames - count - 1
    return Outcome(scene.clip, scene.clip[order])


def shuffle(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Exchange frames with frames far away; the strength is the share of frames out of place."""
    draw = rng.permutation(scene.num_frames)
    count = round(strength * scene.num_frames)
    order = np.arange(scene.num_frames)
    if count >= 2:
        chosen = np.sort(draw[:count])
        order[chosen] = np.roll(chosen, max(1, count // 2))
    return Outcome(scene.clip, scene.clip[order])

"""Controls: pairs without an order (label tie), so that the reward model cannot learn "artefact = loser".

The people stay who they are; either both sides carry the same kind of artefact at different places, or the background
alone changes, or one side went through the painter's blending with nothing changed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from idgrpo.distort.contract import NotPossible, Outcome, Scene, move, own_weights, repaint, some_slots
from idgrpo.distort.cover import cover_of
from idgrpo.distort.pixels import blurred, composite, ellipse, extent, gaussian, recompressed, texture
from idgrpo.people.painter import Script


@dataclass(frozen=True)
class Patch:
    """Hold a soft spot in the background: the rows and columns it lies in, float32 mask [frame, row, column]."""

    rows: slice
    columns: slice
    mask: torch.Tensor

    def put(
        self, clip: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor], share: float = 1.0
    ) -> torch.Tensor:
        """Change the clip inside of the spot."""
        part = clip[..., self.rows, self.columns]
        result = clip.clone()
        result[..., self.rows, self.columns] = composite(part, change(part), self.mask * share)
        return result


def _spot(scene: Scene, size_px: float, rng: np.random.Generator) -> tuple[float, float]:
    """Draw the middle (x, y) of a spot where nobody is for most of the time: the freest of eight."""
    height, width = scene.clip.shape[-2:]
    freedom = gaussian(scene.background.mean(0)[None, None], size_px / 2)[0, 0]
    places = [(rng.uniform(0.05, 0.95) * width, rng.uniform(0.05, 0.95) * height) for _ in range(8)]
    return max(places, key=lambda place: float(freedom[int(place[1]), int(place[0])]))


def _patch(scene: Scene, rng: np.random.Generator) -> Patch:
    """Draw a soft ellipse in the background."""
    height, width = scene.clip.shape[-2:]
    size = rng.uniform(0.15, 0.35) * min(height, width)
    x, y = _spot(scene, size, rng)
    return _behind(scene, ellipse(height, width, x, y, size, size * rng.uniform(0.7, 1.4), 0.3))


def _behind(scene: Scene, spot: torch.Tensor) -> Patch:
    """Keep what of a spot [height, width] is background."""
    rows, columns = extent(spot) or (slice(0, 1), slice(0, 1))
    return Patch(rows, columns, spot[rows, columns] * scene.background[:, rows, columns])


def seam(scene: Scene, strength: float, rng: np.random.Generator) -> torch.Tensor:
    """Put a patch of the clip back slightly off (half a per cent of the frame, a few grey levels): a visible seam.

    Patches lie in the background; people stay bit-equal.
    """
    patch = _patch(scene, rng)
    offset = torch.from_numpy(rng.uniform(-1, 1, size=3).astype(np.float32) * 14)[:, None, None]
    if strength == 0:
        return scene.clip
    shift = max(1, round(min(scene.clip.shape[-2:]) * 0.006))
    return patch.put(
        scene.clip,
        lambda part: torch.roll(part, (shift, shift), (-2, -1)).float() + strength * offset,
        min(1.0, 0.3 + strength),
    )


def blur(scene: Scene, strength: float, rng: np.random.Generator) -> torch.Tensor:
    """Blur a patch of the background."""
    patch = _patch(scene, rng)
    if strength == 0:
        return scene.clip
    return patch.put(scene.clip, lambda part: blurred(part, strength * min(scene.clip.shape[-2:]) * 0.05))


def recompress(scene: Scene, strength: float, rng: np.random.Generator) -> torch.Tensor:
    """Recompress a patch of the background, JPEG quality 60 down to 10."""
    patch = _patch(scene, rng)
    quality = max(5, round(60 - 50 * strength + float(rng.uniform(-9, 9))))
    if strength == 0:
        return scene.clip
    return patch.put(scene.clip, lambda part: recompressed(part, quality))


def cover(scene: Scene, strength: float, rng: np.random.Generator) -> torch.Tensor:
    """Hold an object before the background, where nobody is."""
    height, width = scene.clip.shape[-2:]
    surface = texture(height, width, rng)
    size = min(height, width) * (0.12 + 0.2 * strength)
    x, y = _spot(scene, size, rng)
    box = (x - size / 4, y - size / 2, x + size / 4, y + size / 2)
    patch = _behind(scene, cover_of(box, height, width, rng.uniform(0.9, 1.2, size=2)))
    if strength == 0:
        return scene.clip
    return patch.put(scene.clip, surface[:, patch.rows, patch.columns].expand_as)


def background(scene: Scene, strength: float, rng: np.random.Generator) -> torch.Tensor:
    """Change the colour of the whole background."""
    tint = torch.from_numpy(rng.uniform(-60, 60, size=3).astype(np.float32))[:, None, None]
    if strength == 0:
        return scene.clip
    result = scene.clip.clone()
    for frame, mask in enumerate(scene.background):
        result[frame] = scene.clip[frame].float().addcmul_(tint, mask, value=strength).round_().clamp_(0, 255)
    return result


ARTEFACTS = {"seam": seam, "blur": blur, "recompress": recompress, "cover": cover, "background": background}


def control_seam(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Put a seam on both sides, at different places."""
    return Outcome(seam(scene, strength, rng), seam(scene, strength, rng))


def control_blur(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Blur a patch of the background on both sides."""
    return Outcome(blur(scene, strength, rng), blur(scene, strength, rng))


def control_recompress(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Recompress a patch of the background on both sides."""
    return Outcome(recompress(scene, strength, rng), recompress(scene, strength, rng))


def control_background(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Change the background on one side only."""
    return Outcome(scene.clip, background(scene, strength, rng))


def control_cover(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Hold an object before the background on one side only."""
    return Outcome(scene.clip, cover(scene, strength, rng))


def control_reblend(scene: Scene, strength: float, rng: np.random.Generator) -> Outcome:
    """Re-blend the clip with itself on one side: the painter's trace alone. Strength is the share of the frames."""
    (slot,) = some_slots(scene, 1, rng)
    other = (slot + 1) % scene.num_slots
    if other == slot:
        raise NotPossible("one person: nobody to blend with")
    weights, identities = own_weights(scene)
    move(weights, np.arange(round(strength * scene.num_frames)), slot, other, 1.0)
    script = Script(weights, identities)
    if not script.touched().any():
        return Outcome(scene.clip, scene.clip, script)
    again = repaint(scene, script).better
    if torch.equal(again, scene.clip):
        raise NotPossible("the painter leaves no trace: nothing to control for")
    return Outcome(scene.clip, again, script)

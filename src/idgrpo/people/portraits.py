"""What a finder sees in a reference photo: how many people, how large, how sharp, how far turned away, and how alike to others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from idgrpo.people.boxes import Box
from idgrpo.people.contract import Detection, Finder, Levels

BLUR_PX = 112  # recognition networks see a face of about this size
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Portrait:
    """Hold what was seen in one photo.

    `boxes` in pixels, the largest person first. `side_px` is the height of the largest box, `blur` 0 (sharp) to 1, `turn` 0
    (frontal) to about 1 (profile), None where nobody was found or the finder gives no landmarks. `embedding` is a unit vector.
    """

    boxes: tuple[Box, ...]
    side_px: float = 0.0
    blur: float | None = None
    turn: float | None = None
    embedding: np.ndarray | None = None


@dataclass(frozen=True)
class PortraitLimits:
    """Say from where on a photo is no good reference. Somebody of less than `second_share` of the largest height does not count."""

    min_side_px: float = 64.0
    max_blur: float = 0.68
    max_turn: float = 0.4
    second_share: float = 0.3


def look_at(image: Tensor, finder: Finder) -> Portrait:
    """Look at a photo uint8 [3, height, width]."""
    found = sorted(finder.find(image[None])[0], key=lambda d: d.box[3] - d.box[1], reverse=True)
    if not found:
        return Portrait(())
    largest, *_ = found
    vector = largest.embedding
    if vector is None:
        vector = finder.embed_reference(image)
    return Portrait(
        tuple(d.box for d in found),
        largest.box[3] - largest.box[1],
        blur_of(_cut(image, largest)),
        None if largest.landmarks is None else turn_of(largest.landmarks),
        np.asarray(vector, np.float32) / max(float(np.linalg.norm(vector)), 1e-12),
    )


def _cut(image: Tensor, detection: Detection) -> Tensor:
    """Cut a person out, at most `BLUR_PX` high: float32 [height, width], brightness 0..1."""
    left, top, right, bottom = (round(v) for v in detection.box)
    part = image[:, max(top, 0) : max(bottom, top + 2), max(left, 0) : max(right, left + 2)].float() / 255
    if part.shape[1] > BLUR_PX:
        size = (BLUR_PX, max(2, round(part.shape[2] * BLUR_PX / part.shape[1])))
        part = interpolate(part[None], size, mode="bilinear", antialias=True)[0]
    return torch.einsum("chw,c->hw", part, torch.tensor(GREY))


def blur_of(brightness: Tensor) -> float:
    """Measure blur of a picture [height, width]: the share of its steps between neighbours that survives a blur of 9 pixels.

    Source: Crete et al., The blur effect, SPIE 6492 (2007): what is blurred already changes little.
    """
    shares = []
    for picture in (brightness, brightness.T):
        soft = avg_pool2d(picture[None, None], (9, 1), 1, (4, 0), count_include_pad=False)[0, 0]
        steps, soft_steps = picture.diff(dim=0).abs(), soft.diff(dim=0).abs()
        total = float(steps.sum())
        shares.append(1.0 - float((steps - soft_steps).clamp(min=0).sum()) / total if total > 0 else 1.0)
    return max(shares)


def turn_of(landmarks: np.ndarray) -> float:
    """Measure how far a face is turned to a side: the nose's distance from the middle of the eyes, along them, over theirs."""
    first, second, nose = np.asarray(landmarks, np.float64)[:3]
    across = second - first
    length = float(np.linalg.norm(across))
    return 1.0 if length < 1e-6 else min(1.0, abs(float((nose - (first + second) / 2) @ across)) / length**2)


def problems_of(portrait: Portrait, limits: PortraitLimits) -> list[str]:
    """Say what is wrong with a photo as a reference of one person; nothing for a good one."""
    if not portrait.boxes:
        return ["nobody found"]
    least = limits.second_share * portrait.side_px
    num_people = sum(bottom - top >= least for _, top, _, bottom in portrait.boxes)
    checks = [
        (num_people > 1, f"{num_people} people"),
        (portrait.side_px < limits.min_side_px, f"too small ({portrait.side_px:.0f} of {limits.min_side_px:.0f} px)"),
        (portrait.turn is not None and portrait.turn > limits.max_turn, f"turned away ({portrait.turn or 0:.2f})"),
        (portrait.blur is not None and portrait.blur > limits.max_blur, f"blurred ({portrait.blur or 0:.2f})"),
    ]
    return [text for holds, text in checks if holds]


def likeness_problems(
    people: Mapping[str, Sequence[tuple[str, np.ndarray]]], together: Sequence[Sequence[str]], levels: Levels
) -> dict[str, list[str]]:
    """Say which photos are too alike, or of one person and not alike: path -> problems.

    Args:
        people: (path, unit vector) of each person's photos, the generator's first.
        together: the people of each case.
    """
    found: dict[str, list[str]] = {}
    firsts = [(person, *photos[0]) for person, photos in people.items() if photos]
    table = np.stack([vector for *_, vector in firsts]) if firsts else np.zeros((0, 1))
    cosines = table @ table.T
    number = {person: index for index, (person, *_) in enumerate(firsts)}
    pairs = {tuple(sorted((a, b))) for case in together for a in case for b in case if a < b}
    for a, b in np.argwhere(np.triu(cosines, 1) > levels.stranger).tolist():
        first, second = firsts[a], firsts[b]
        cosine = float(cosines[a, b])
        if cosine >= levels.same_person:
            text = "looks like the same person as"
        elif tuple(sorted((first[0], second[0]))) in pairs:
            text = "too alike within a case:"
        else:
            continue
        for (_, path, _), (other, *_) in ((first, second), (second, first)):
            found.setdefault(path, []).append(f"{text} {other} ({cosine:.2f})")
    for person, photos in people.items():
        for path, vector in photos[1:]:
            cosine = float(vector @ table[number[person]])
            if cosine < levels.stranger:
                found.setdefault(path, []).append(f"not the person of {person}'s first photo ({cosine:.2f})")
    return found

"""Whether a person is the reference picture itself: how far the pixels of a face agree with those of the photo.

An embedding cannot tell: two photos of one session lie as near to each other as a photo to its own copy.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from idgrpo.people.align import aligned
from idgrpo.people.contract import Detection, Finder

PRINT_PX = 32
DETAIL_PX = 9
SPAN = 0.8  # of the standard crop: brows to chin, no background
# What an alignment by found points may be off by: a twentieth of the size, a pixel to each side.
SPANS, SHIFT_PX = (0.95 * SPAN, SPAN, 1.05 * SPAN), 1
FACE_PX = (80.0, 56.0)  # detectors place points a little elsewhere when a face is small
GREY = (0.299, 0.587, 0.114)


def face_print(image: Tensor, landmarks: np.ndarray | None, span: float = SPAN) -> np.ndarray | None:
    """Take the detail of a face in an image uint8 [3, height, width] as a unit vector float32 [1024].

    Eyes, nose and mouth are laid on fixed places of 32x32 pixels; the brightness minus its mean over 9x9 pixels is what remains, so
    that the light does not count. The product of two prints is their normalised cross-correlation. None without the five landmarks or
    where the face is flat. `span` is how much of the standard crop is shown.
    """
    if landmarks is None or np.shape(landmarks) != (5, 2) or not np.isfinite(landmarks).all():
        return None
    if np.ptp(landmarks, axis=0).max() <= 1:
        return None
    grey = torch.einsum("chw,c->hw", aligned(image, landmarks, PRINT_PX, span).float(), torch.tensor(GREY))
    soft = avg_pool2d(grey[None, None], DETAIL_PX, 1, DETAIL_PX // 2, count_include_pad=False)[0, 0]
    detail = (grey - soft - (grey - soft).mean()).flatten().numpy()
    length = float(np.linalg.norm(detail))
    return detail / length if length > 1.0 else None  # less than a thirtieth of a grey level: nothing to compare


def photo_prints(photo: Tensor, finder: Finder) -> np.ndarray:
    """Take the prints of the largest face of a photo, float32 [at most 9, 1024]: of three spans, found at its own size and smaller.

    Of all prints the nearest counts.
    """
    found = finder.find(photo[None])[0]
    height = max((_height(d) for d in found), default=0.0)
    pictures = [(photo, found)]
    for face_px in FACE_PX:
        if height > face_px:
            size = [max(1, round(side * face_px / height)) for side in photo.shape[1:]]
            small = interpolate(photo[None].float(), size=size, mode="bilinear", antialias=True).round().byte()
            pictures.append((small[0], finder.find(small)[0]))
    largest = [(picture, max(people, key=_height).landmarks) for picture, people in pictures if people]
    prints = [face_print(picture, points, span) for picture, points in largest for span in SPANS]
    known = [one for one in prints if one is not None]
    return np.stack(known) if known else np.zeros((0, PRINT_PX**2), np.float32)


def _height(detection: Detection) -> float:
    return detection.box[3] - detection.box[1]


def track_prints(clip: Tensor, tracks: Sequence[Sequence[Detection]]) -> np.ndarray:
    """Average the prints of each track over its frames: float32 [track, 1024], zeros where a face has none.

    Noise and encoding average out; so do faces that speak or turn.
    """
    means = np.zeros((len(tracks), PRINT_PX**2), np.float32)
    for number, track in enumerate(tracks):
        prints = [face_print(clip[d.frame], d.landmarks) for d in track]
        known = [one for one in prints if one is not None]
        if known:
            means[number] = np.mean(known, axis=0)
    return means


def agreement(track: np.ndarray, photos: np.ndarray) -> float | None:
    """Correlate a track's detail [1024] with the prints of photos [k, 1024], -1..1: of all prints and shifts by a pixel the highest.

    None without prints.
    """
    if not len(photos) or not track.any():
        return None
    side, margin = PRINT_PX, SHIFT_PX
    middle = _unit(track.reshape(1, side, side)[:, margin:-margin, margin:-margin])[0]
    steps = range(2 * margin + 1)
    length = side - 2 * margin
    squares = photos.reshape(-1, side, side)
    return max(float((_unit(squares[:, y : y + length, x : x + length]) @ middle).max()) for y in steps for x in steps)


def _unit(squares: np.ndarray) -> np.ndarray:
    """Flatten squares [k, h, w] to vectors of mean 0 and length 1."""
    rows = squares.reshape(len(squares), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

"""Put faces upright and to one size by five landmarks: pure functions of points and pixels.

The template is the one that ArcFace networks are trained on (112 px: arXiv 1801.07698 and InsightFace's `face_align.py`).
"""

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

TEMPLATE_PX = 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def similarity_transform(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit rotation, scale and shift (no reflection) from `points` [n, 2] to `target` [n, 2]: float64 [2, 3], least squares.

    Source: Umeyama, IEEE PAMI 13(4), 1991, in closed form for two dimensions. Raises ValueError when all points are one.
    """
    points, target = np.asarray(points, np.float64), np.asarray(target, np.float64)
    mean, wanted = points.mean(0), target.mean(0)
    p, q = points - mean, target - wanted
    spread = float((p**2).sum())
    if spread < 1e-9:
        raise ValueError("all points are one: no transform can be fitted")
    cos = float((p * q).sum()) / spread
    sin = float((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()) / spread
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([turn, wanted - turn @ mean])


def affine_transform(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit an affine map from `points` [n, 2] to `target` [n, 2]: float64 [2, 3]; the similarity where it would fold or shear much.

    Two faces differ in more than size: eyes, nose and mouth of one lie on those of the other only after such a map.
    """
    rigid = similarity_transform(points, target)
    free = np.linalg.lstsq(np.column_stack([points, np.ones(len(points))]), np.asarray(target, np.float64), rcond=None)[
        0
    ].T
    low, high = np.linalg.svd(free[:, :2], compute_uv=False)[::-1]
    scale = float(np.hypot(rigid[0, 0], rigid[1, 0]))
    usable = np.linalg.det(free[:, :2]) > 0 and 0.67 * scale < low and high < 1.5 * scale
    return free if usable else rigid


def applied(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Move points [..., 2] by a transform [2, 3]."""
    return np.asarray(points) @ transform[:, :2].T + transform[:, 2]


def inverted(transform: np.ndarray) -> np.ndarray:
    """Invert a transform [2, 3]."""
    back = np.linalg.inv(transform[:, :2])
    return np.column_stack([back, -back @ transform[:, 2]])


def template_for(size: int, span: float = 1.0, lower: float = 0.0) -> np.ndarray:
    """Give the five points [5, 2] in a crop of `size` pixels that shows `span` times as much as the standard one.

    Its middle lies `lower` of the standard crop's side further down.
    """
    middle = TEMPLATE_PX / 2
    return ((TEMPLATE - (middle, middle + lower * TEMPLATE_PX)) / span + middle) * size / TEMPLATE_PX


def aligned(
    image: torch.Tensor, landmarks: np.ndarray, size: int, span: float = 1.0, lower: float = 0.0
) -> torch.Tensor:
    """Cut the aligned face out of an image uint8 [3, height, width]: uint8 [3, size, size].

    `landmarks` [5, 2] in pixels go to the template, least squares; what lies outside of the image repeats its edge.
    """
    back = inverted(similarity_transform(landmarks, template_for(size, span, lower)))
    shrink = float(np.hypot(back[0, 0], back[1, 0]))
    steps = np.arange(size) + 0.5
    places = applied(back, np.stack(np.meshgrid(steps, steps), axis=-1))
    # Only the part around the face is touched; a large face is made smaller first, so that nothing aliases.
    (left, top), (right, bottom) = places.min((0, 1)) - 2 * shrink - 2, places.max((0, 1)) + 2 * shrink + 2
    height, width = image.shape[-2:]
    x0, y0 = int(np.clip(left, 0, width - 1)), int(np.clip(top, 0, height - 1))
    x1, y1 = int(np.clip(np.ceil(right), x0 + 1, width)), int(np.clip(np.ceil(bottom), y0 + 1, height))
    part = image[:, y0:y1, x0:x1].float()[None]
    if shrink > 1.5:
        small = (max(1, round(part.shape[2] / shrink)), max(1, round(part.shape[3] / shrink)))
        part = interpolate(part, size=small, mode="bilinear", align_corners=False, antialias=True)
    grid = torch.from_numpy((places - (x0, y0)) * 2 / (x1 - x0, y1 - y0) - 1).float()[None]
    crop = grid_sample(part, grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    return crop.round().clamp(0, 255).to(torch.uint8)


def crop_square(
    image: torch.Tensor, box: tuple[float, float, float, float], size: int, margin: float = 0.15
) -> torch.Tensor:
    """Cut a square around a box (enlarged by `margin` of its side on each side) and resize it: uint8 [3, size, size].

    Parts outside the image repeat its edge.
    """
    side = max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * margin)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    length = max(2, round(side))
    columns = (torch.arange(length) + round(x - side / 2)).clamp(0, image.shape[2] - 1)
    rows = (torch.arange(length) + round(y - side / 2)).clamp(0, image.shape[1] - 1)
    patch = image[:, rows][:, :, columns].float()[None]
    resized = interpolate(patch, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def face_crop(
    image: torch.Tensor,
    box: tuple[float, float, float, float],
    landmarks: np.ndarray | None,
    size: int,
    span: float = 1.0,
    lower: float = 0.0,
) -> torch.Tensor:
    """Cut a face: aligned by its landmarks where there are some (not all at one place), else the square around its box."""
    if landmarks is not None and np.isfinite(landmarks).all() and np.ptp(landmarks, axis=0).max() > 1:
        return aligned(image, landmarks, size, span, lower)
    return crop_square(image, box, size)

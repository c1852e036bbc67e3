"""Arithmetic on boxes (left, top, right, bottom)."""

import numpy as np

Box = tuple[float, float, float, float]


def area(box: Box) -> float:
    """Give the area in square pixels; empty boxes have none."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(first: Box, second: Box) -> float:
    """Give intersection over union, 0..1."""
    overlap = area(
        (max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3]))
    )
    union = area(first) + area(second) - overlap
    return overlap / union if union > 0 else 0.0


def center(box: Box) -> np.ndarray:
    """Give the middle (x, y)."""
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


def side(box: Box) -> float:
    """Give the side of the square with the same area, the scale against which distances are measured."""
    return max(area(box), 1e-6) ** 0.5


def shifted(box: Box, offset: np.ndarray) -> Box:
    """Move a box by (x, y)."""
    return (box[0] + offset[0], box[1] + offset[1], box[2] + offset[0], box[3] + offset[1])


def between(first: Box, second: Box, share: float) -> Box:
    """Interpolate from `first` (share 0) to `second` (share 1)."""
    left, top, right, bottom = (float(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return left, top, right, bottom


def covering(mask: np.ndarray, level: float = 0.5) -> Box | None:
    """Give the smallest box around mask values above `level`; None when there are none."""
    rows, columns = np.nonzero(mask > level)
    if not len(rows):
        return None
    return (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))

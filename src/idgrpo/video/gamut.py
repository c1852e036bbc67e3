"""Bring wide-gamut standard-range video (BT.2020, Display P3) to sRGB's primaries, clipping what sRGB cannot show."""

from functools import lru_cache

import numpy as np

# Chromaticities x, y of red, green, blue by value of ITU-T H.273; all have the white point D65.
PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
D65 = (0.3127, 0.3290)
STEPS = 16384  # of linear light: finer than a level of 8 bits wherever the curve is not yet straight


def to_srgb_primaries(picture: np.ndarray, primaries: int) -> np.ndarray:
    """Convert uint8 [height, width, 3] from `primaries`; pictures of other primaries, near sRGB's, stay as they are."""
    if primaries not in PRIMARIES or primaries == 1:
        return picture
    linear, encoded = _curves()
    light = linear[picture] @ _matrix(primaries).T
    return encoded[np.rint(light.clip(0, 1) * STEPS).astype(np.int32)]


@lru_cache(maxsize=8)
def _matrix(primaries: int) -> np.ndarray:
    """Give the matrix from linear light of `primaries` to that of sRGB, float32 [3, 3]."""
    return (np.linalg.inv(_to_xyz(1)) @ _to_xyz(primaries)).astype(np.float32)


def _to_xyz(primaries: int) -> np.ndarray:
    def xyz(x: float, y: float) -> list[float]:
        return [x / y, 1.0, (1 - x - y) / y]

    columns = np.array([xyz(*point) for point in PRIMARIES[primaries]]).T
    return columns * np.linalg.solve(columns, xyz(*D65))


@lru_cache(maxsize=1)
def _curves() -> tuple[np.ndarray, np.ndarray]:
    """Give sRGB's curve as tables (IEC 61966-2-1): level to light float32 [256], light to level uint8 [STEPS + 1]."""
    level = np.arange(256) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    light = np.arange(STEPS + 1) / STEPS
    encoded = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return linear.astype(np.float32), np.rint(encoded * 255).astype(np.uint8)

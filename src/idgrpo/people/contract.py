"""What a finder of people gives and what it is asked for."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch


@dataclass
class Detection:
    """Hold one person found in one frame.

    `box` is (left, top, right, bottom) in pixels, right and bottom exclusive. `mask` is [height, width] of the whole frame, bool
    or 0..1. `landmarks` are five points (eye, eye, nose, mouth corner, mouth corner) in pixels.
    """

    frame: int
    box: tuple[float, float, float, float]
    score: float
    embedding: np.ndarray | None = None
    mask: np.ndarray | None = None
    landmarks: np.ndarray | None = None


@runtime_checkable
class Finder(Protocol):
    """Find people in clips and put clips and portraits into one space, comparable by cosine."""

    def find(self, clip: torch.Tensor) -> list[list[Detection]]:
        """Find people: one list of detections per frame of `clip` uint8 [frame, 3, height, width]."""

    def embed_reference(self, image: torch.Tensor) -> np.ndarray:
        """Embed a portrait uint8 [3, height, width] as a unit vector [d]; DataError when nobody is in it."""


@runtime_checkable
class Embedder(Protocol):
    """Embed face crops."""

    crop_size: int

    def embed(self, crops: torch.Tensor) -> np.ndarray:
        """Embed uint8 crops [n, 3, crop_size, crop_size] as unit vectors float32 [n, d]."""

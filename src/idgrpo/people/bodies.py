"""Find whole people with a detector of torchvision and compare their hair and clothes by colour.

Architectures are torchvision's (BSD-3-Clause); weights come from a local file and nothing is fetched. torchvision's own weights were
trained on COCO, whose annotations are CC BY 4.0 and whose photos have terms of their own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idgrpo.errors import DataError, MachineError, UsageError
from idgrpo.people.boxes import area
from idgrpo.people.contract import Detection, Levels, file_content
from idgrpo.people.faces import need_file, stated_levels

ARCHITECTURE = "maskrcnn_resnet50_fpn"
PERSON = 1  # its number among the classes of COCO
HEAD, CHEST = 0.5, 1.7  # head and chest end so many widths of a person below the top of the box
LEVELS_OF_GREY, HUES = 6, 12
GET_WEIGHTS = (
    'on a machine with network: python -c "import torch, torchvision as t; '
    "torch.save(t.models.detection.maskrcnn_resnet50_fpn(weights='DEFAULT').state_dict(), 'maskrcnn.pt')\""
)


def appearance(image: Tensor, mask: Tensor, box: tuple[float, float, float, float]) -> np.ndarray:
    """Describe hair and clothes of a person in uint8 [3, height, width] as a unit vector float32 [36].

    The roots of two histograms of colour (dark to light, and hue weighted by how colourful), one of the head, one of the chest, over
    the person's mask [height, width] in 0..1; so a cosine is the mean overlap of two people's colours (Bhattacharyya). Head and chest
    are measured in widths of the person, so that a portrait and a whole figure are compared by the same parts; legs are not looked at.
    """
    left, top, right, bottom = (round(v) for v in box)
    left, top = max(left, 0), max(top, 0)
    part = image[:, top : max(bottom, top + 1), left : max(right, left + 1)].float() / 255
    weight = mask[top : max(bottom, top + 1), left : max(right, left + 1)].float()
    width = box[2] - box[0]
    rows = torch.arange(part.shape[1])[:, None] / max(width, 1e-6)
    bands = (weight * (rows < HEAD), weight * ((rows >= HEAD) & (rows < CHEST)))
    vectors = [_colours(part, band) for band in bands]
    vector = torch.cat(vectors).numpy()
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)


def _colours(part: Tensor, weight: Tensor) -> Tensor:
    """Give the roots of a histogram of greys and hues [18] that sums to 1 (all zero where nothing is seen)."""
    red, green, blue = part
    grey = part.mean(0)
    alpha, beta = red - (green + blue) / 2, (green - blue) * 3**0.5 / 2
    colourful = (alpha**2 + beta**2).sqrt().clamp(max=1)
    hue = torch.atan2(beta, alpha) / (2 * torch.pi) % 1
    greys = _spread(grey * (LEVELS_OF_GREY - 1), weight * (1 - colourful), LEVELS_OF_GREY, wraps=False)
    hues = _spread(hue * HUES, weight * colourful, HUES, wraps=True)
    histogram = torch.cat([greys, hues])
    return (histogram / histogram.sum().clamp(min=1e-9)).sqrt()


def _spread(place: Tensor, weight: Tensor, num: int, *, wraps: bool) -> Tensor:
    """Share each weight between the two bins next to its place (in bins)."""
    low = place.floor()
    share = place - low
    first = low.long() % num if wraps else low.long().clamp(0, num - 1)
    second = (first + 1) % num if wraps else (first + 1).clamp(max=num - 1)
    bins = torch.zeros(num)
    bins.index_add_(0, first.flatten(), (weight * (1 - share)).flatten())
    bins.index_add_(0, second.flatten(), (weight * share).flatten())
    return bins


def load_detector(architecture: str, weights: Path, side_px: int) -> torch.nn.Module:
    """Build a detector of torchvision and load its weights; UsageError for an unknown name, MachineError for another file."""
    from torchvision.models import detection, get_model, list_models

    known = list_models(module=detection)
    if architecture not in known:
        raise UsageError(f"finder: there is no detector {architecture!r} (known: {', '.join(known)})")
    need_file(weights, "weights of a person detector", GET_WEIGHTS)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have classes of their own
        raise MachineError(f"{weights} is no torch checkpoint: {error}", fix=GET_WEIGHTS) from error
    # 91 classes of COCO; `min_size` is the shorter side that a frame is resized to.
    model = get_model(architecture, weights=None, weights_backbone=None, min_size=side_px, max_size=2 * side_px)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        first = str(error).splitlines()[-1].strip()[:160]
        raise MachineError(f"{weights} does not fit {architecture}: {first}", fix=GET_WEIGHTS) from error
    return model.eval()


class BodyFinder:
    """Find people with a detector of torchvision; boxes and masks hold whole people.

    `weights` is a file with the state of `architecture`. People of less than `min_height_px` or of a score below `min_score` are left
    out; frames are resized to a shorter side of `side_px`. `same_person` and `stranger` replace the finder's levels.
    """

    covers = "person"

    def __init__(
        self,
        weights: str | Path | None = None,
        device: str = "cpu",
        architecture: str = ARCHITECTURE,
        min_score: float = 0.7,
        min_height_px: int = 24,
        side_px: int = 480,
        batch_frames: int = 4,
        same_person: float | None = None,
        stranger: float | None = None,
    ):
        if weights is None:
            raise MachineError("the finder body has no weights of its own", fix=GET_WEIGHTS)
        self.architecture, self.side_px = architecture, side_px
        self.device = torch.device(device)
        self.model = load_detector(architecture, Path(weights), side_px).to(self.device)
        self.weights_sha256 = file_content(Path(weights)).hex()
        self.min_score, self.min_height_px, self.batch_frames = min_score, min_height_px, batch_frames
        self.levels = stated_levels(_Levels, same_person, stranger)

    def fingerprint(self) -> str:
        """Tell weights and settings (the network itself remembers sizes of frames, which decide nothing)."""
        return repr(
            (self.architecture, self.weights_sha256, self.side_px, self.min_score, self.min_height_px, self.levels)
        )

    @torch.no_grad()
    def find(self, clip: Tensor) -> list[list[Detection]]:
        """Find people in each frame of uint8 [frame, 3, height, width], best first."""
        found: list[list[Detection]] = []
        for start in range(0, len(clip), self.batch_frames):
            frames = clip[start : start + self.batch_frames]
            for frame, seen in zip(frames, self.model(list(frames.to(self.device).float() / 255)), strict=True):
                found.append(self._detections(len(found), frame, {name: value.cpu() for name, value in seen.items()}))
        return found

    def _detections(self, number: int, frame: Tensor, seen: dict[str, Tensor]) -> list[Detection]:
        detections = []
        for index in torch.argsort(seen["scores"], descending=True, stable=True).tolist():
            box = tuple(seen["boxes"][index].tolist())
            score = float(seen["scores"][index])
            if int(seen["labels"][index]) != PERSON or score < self.min_score or box[3] - box[1] < self.min_height_px:
                continue
            mask = seen["masks"][index, 0] if "masks" in seen else None
            vector = appearance(frame, _ellipse(frame.shape[1:], box) if mask is None else mask, box)
            held = None if mask is None else mask.numpy()
            detections.append(Detection(number, box, score, vector, held))
        return detections

    def embed_reference(self, image: Tensor) -> np.ndarray:
        """Describe the largest person of a photo."""
        found = self.find(image[None])[0]
        if not found:
            raise DataError(
                "nobody found in the reference image", fix="use a photo that shows head and chest of the person"
            )
        largest = max(found, key=lambda d: area(d.box))
        assert largest.embedding is not None  # `find` describes everybody
        return largest.embedding


class _Levels:
    """Colours separate people less clearly than faces: on the embedded world 75 % of the sights of one person are above 0.88, and 75 %
    of those of two people below 0.81."""

    levels = Levels(same_person=0.88, stranger=0.81)


def _ellipse(size: Sequence[int], box: tuple[Any, ...]) -> Tensor:
    """Stand in for the mask of a detector that gives boxes only: the ellipse in the box."""
    left, top, right, bottom = box
    rows = (torch.arange(size[0]) + 0.5 - (top + bottom) / 2) / max((bottom - top) / 2, 1e-6)
    columns = (torch.arange(size[1]) + 0.5 - (left + right) / 2) / max((right - left) / 2, 1e-6)
    return (rows[:, None] ** 2 + columns[None] ** 2 <= 1).float()

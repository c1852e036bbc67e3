"""Find faces with MTCNN, align them, and embed them with any recognition network.

MTCNN's weights ship inside facenet-pytorch (arXiv 1604.02878).
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from idgrpo.errors import DataError, MachineError, UsageError
from idgrpo.people.align import face_crop
from idgrpo.people.contract import Detection, Embedder, Levels, levels_of


def import_facenet():
    """Import facenet-pytorch; MachineError when it is not here."""
    try:
        import facenet_pytorch
    except ImportError as error:
        raise MachineError("finding faces needs facenet-pytorch", fix="pip install facenet-pytorch==2.5.3") from error
    return facenet_pytorch


def stated_levels(embedder: object, same_person: float | None, stranger: float | None) -> Levels | None:
    """Give the levels of an embedder, each replaced by the user's number where there is one; UsageError for impossible ones."""
    own = levels_of(embedder)
    same_person = own.same_person if same_person is None and own else same_person
    stranger = own.stranger if stranger is None and own else stranger
    if same_person is None or stranger is None:
        return None
    try:
        return Levels(same_person, stranger)
    except ValueError as error:
        raise UsageError(f"finder: {error}", fix="set both same_person and stranger") from error


class FaceFinder:
    """Find faces with MTCNN and embed them with `embedder`; without one (False) detections carry no embedding.

    Faces of less than `min_face_px` or of a score below `min_score` are left out; `thresholds` are those of MTCNN's three
    networks, `factor` is the step of its pyramid. `same_person` and `stranger` replace the levels that the embedder states.
    """

    covers = "face"

    def __init__(
        self,
        embedder: Embedder | Literal[False],
        device: str = "cpu",
        min_face_px: int = 20,
        min_score: float = 0.9,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        factor: float = 0.709,
        batch_frames: int = 8,
        same_person: float | None = None,
        stranger: float | None = None,
    ):
        facenet = import_facenet()
        self.device = torch.device(device)
        self.networks = facenet.MTCNN(keep_all=True, min_face_size=min_face_px, device=self.device, post_process=False)
        self.embedder = embedder or None
        self.min_face_px, self.min_score, self.batch_frames = min_face_px, min_score, batch_frames
        self.thresholds, self.factor = [float(value) for value in thresholds], factor
        self.levels = stated_levels(self.embedder, same_person, stranger)

    def _detect(self, frames: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
        """Give boxes with score [n, 5] and landmarks [n, 5, 2] for each frame of uint8 [f, 3, h, w]."""
        from facenet_pytorch.models.utils.detect_face import detect_face

        nets = self.networks
        pixels = frames.permute(0, 2, 3, 1).contiguous().to(self.device)
        if min(frames.shape[-2:]) < self.min_face_px:
            return [(np.zeros((0, 5)), np.zeros((0, 5, 2)))] * len(frames)
        with torch.no_grad():
            boxes, points = detect_face(
                pixels, self.min_face_px, nets.pnet, nets.rnet, nets.onet, self.thresholds, self.factor, self.device
            )
        return [
            (np.asarray(b, np.float64).reshape(-1, 5), np.asarray(p, np.float64).reshape(-1, 5, 2))
            for b, p in zip(boxes, points, strict=True)
        ]

    def find(self, clip: torch.Tensor) -> list[list[Detection]]:
        """Find faces in each frame; embeddings come from crops aligned by the five landmarks."""
        per_frame: list[list[Detection]] = []
        for start in range(0, len(clip), self.batch_frames):
            for boxes, points in self._detect(clip[start : start + self.batch_frames]):
                frame = len(per_frame)
                per_frame.append(
                    [
                        Detection(frame, (left, top, right, bottom), score, landmarks=landmarks)
                        for (left, top, right, bottom, score), landmarks in zip(boxes.tolist(), points, strict=True)
                        if score >= self.min_score
                    ]
                )
        self._embed(clip, [d for found in per_frame for d in found])
        return per_frame

    def _crop(self, image: torch.Tensor, detection: Detection) -> torch.Tensor:
        """Cut a face as the embedder wants it: by its own `crop`, or aligned to the standard template."""
        assert self.embedder is not None  # who asks for crops has an embedder
        own = getattr(self.embedder, "crop", None)
        if own is not None:
            return own(image, detection.box, detection.landmarks)
        return face_crop(image, detection.box, detection.landmarks, self.embedder.crop_size)

    def _embed(self, clip: torch.Tensor, detections: list[Detection]) -> None:
        if self.embedder is None:
            return
        for start in range(0, len(detections), 32):
            batch = detections[start : start + 32]
            crops = torch.stack([self._crop(clip[d.frame], d) for d in batch])
            for detection, vector in zip(batch, self.embedder.embed(crops), strict=True):
                detection.embedding = vector

    def embed_reference(self, image: torch.Tensor) -> np.ndarray:
        """Embed the largest face of a portrait."""
        if self.embedder is None:
            raise MachineError("this finder was made without an embedder", fix="choose one with weights")
        found = self.find(image[None])[0]
        if not found:
            raise DataError("no face found in the reference image", fix="use a sharper, frontal photo of the person")
        largest = max(found, key=lambda d: (d.box[2] - d.box[0]) * (d.box[3] - d.box[1]))
        assert largest.embedding is not None  # `find` embeds whenever there is an embedder
        return largest.embedding


def need_file(path: Path, what: str, fix: str) -> Path:
    """Give the path when a file is there; MachineError with the fix otherwise."""
    if not path.is_file():
        raise MachineError(f"no {what} at {path}", fix=fix)
    return path

"""Faces in real videos: MTCNN (weights ship inside facenet-pytorch) and InceptionResnetV1 (weights from a local file).

The VGGFace2 weights are a download of about 111 MB whose licence is not stated; nothing is fetched here. Sources: MTCNN
arXiv 1604.02878, FaceNet arXiv 1503.03832.
"""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

from idgrpo.errors import DataError, MachineError
from idgrpo.people.contract import Detection, Embedder

WEIGHTS_FILE = "20180402-114759-vggface2.pt"
DOWNLOAD_COMMAND = (
    "python -c \"from facenet_pytorch import InceptionResnetV1; InceptionResnetV1(pretrained='vggface2')\""
)


def cached_weights() -> Path:
    """Say where facenet-pytorch keeps its download: $TORCH_HOME/checkpoints, or the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "torch"
    return Path(os.environ.get("TORCH_HOME", cache)).expanduser() / "checkpoints" / WEIGHTS_FILE


def _import_facenet():
    try:
        import facenet_pytorch
    except ImportError as error:
        raise MachineError("finding faces needs facenet-pytorch", fix="pip install facenet-pytorch==2.5.3") from error
    return facenet_pytorch


class FacenetEmbedder:
    """Embed aligned face crops with InceptionResnetV1 into 512 dimensions."""

    crop_size = 160

    def __init__(self, weights: str | Path | None = None, device: str = "cpu"):
        path = Path(weights) if weights else cached_weights()
        if not path.is_file():
            raise MachineError(
                f"no face embedding weights at {path}", fix=f"on a machine with network: {DOWNLOAD_COMMAND}"
            )
        model = _import_facenet().InceptionResnetV1(pretrained=None, classify=False)
        state = torch.load(path, map_location="cpu", weights_only=True)
        # The public file also holds the classifier's logits; anything else that is missing or left over is another network.
        missing, unexpected = model.load_state_dict(state, strict=False)
        strange = [key for key in [*missing, *unexpected] if not key.startswith("logits.")]
        if strange:
            raise MachineError(f"{path} does not hold InceptionResnetV1 weights (first odd key: {strange[0]})")
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)

    @torch.no_grad()
    def embed(self, crops: torch.Tensor) -> np.ndarray:
        """Embed uint8 crops [n, 3, 160, 160] as unit vectors float32 [n, 512]."""
        if not len(crops):
            return np.zeros((0, 512), np.float32)
        pixels = (crops.to(self.device, torch.float32) - 127.5) / 128.0
        return normalize(self.model(pixels), dim=-1).cpu().numpy()


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


class FacenetFinder:
    """Find faces with MTCNN and embed them; without an embedder detections carry no embedding.

    `embedder` None loads the VGGFace2 weights (MachineError names the one command when they are absent); False finds only.
    """

    covers = "face"

    def __init__(
        self,
        embedder: Embedder | Literal[False] | None = None,
        weights: str | Path | None = None,
        device: str = "cpu",
        min_face_px: int = 20,
        min_score: float = 0.9,
        batch_frames: int = 8,
    ):
        facenet = _import_facenet()
        self.device = torch.device(device)
        self.networks = facenet.MTCNN(keep_all=True, min_face_size=min_face_px, device=self.device, post_process=False)
        self.embedder = FacenetEmbedder(weights, device) if embedder is None else (embedder or None)
        self.min_face_px, self.min_score, self.batch_frames = min_face_px, min_score, batch_frames

    def _detect(self, frames: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
        """Give boxes with score [n, 5] and landmarks [n, 5, 2] for each frame of uint8 [f, 3, h, w]."""
        from facenet_pytorch.models.utils.detect_face import detect_face

        nets = self.networks
        pixels = frames.permute(0, 2, 3, 1).contiguous().to(self.device)
        if min(frames.shape[-2:]) < self.min_face_px:
            return [(np.zeros((0, 5)), np.zeros((0, 5, 2)))] * len(frames)
        with torch.no_grad():
            boxes, points = detect_face(
                pixels, self.min_face_px, nets.pnet, nets.rnet, nets.onet, nets.thresholds, nets.factor, self.device
            )
        return [
            (np.asarray(b, np.float64).reshape(-1, 5), np.asarray(p, np.float64).reshape(-1, 5, 2))
            for b, p in zip(boxes, points, strict=True)
        ]

    def find(self, clip: torch.Tensor) -> list[list[Detection]]:
        """Find faces in each frame; embeddings come from square crops of 1.3 times the box."""
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

    def _embed(self, clip: torch.Tensor, detections: list[Detection]) -> None:
        if self.embedder is None:
            return
        for start in range(0, len(detections), 32):
            batch = detections[start : start + 32]
            crops = torch.stack([crop_square(clip[d.frame], d.box, self.embedder.crop_size) for d in batch])
            for detection, vector in zip(batch, self.embedder.embed(crops), strict=True):
                detection.embedding = vector

    def embed_reference(self, image: torch.Tensor) -> np.ndarray:
        """Embed the largest face of a portrait."""
        if self.embedder is None:
            raise MachineError("this finder was made without an embedder", fix=f"get the weights: {DOWNLOAD_COMMAND}")
        found = self.find(image[None])[0]
        if not found:
            raise DataError("no face found in the reference image", fix="use a sharper, frontal photo of the person")
        largest = max(found, key=lambda d: (d.box[2] - d.box[0]) * (d.box[3] - d.box[1]))
        assert largest.embedding is not None  # `find` embeds whenever there is an embedder
        return largest.embedding

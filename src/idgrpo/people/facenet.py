"""Faces in real videos with InceptionResnetV1 (weights from a local file).

The VGGFace2 weights are a download of about 111 MB whose licence is not stated; nothing is fetched here. Source: FaceNet
arXiv 1503.03832.
"""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import normalize

from idgrpo.errors import MachineError
from idgrpo.people.align import face_crop
from idgrpo.people.contract import Embedder, Levels
from idgrpo.people.faces import FaceFinder, import_facenet, need_file

WEIGHTS_FILE = "20180402-114759-vggface2.pt"
DOWNLOAD_COMMAND = (
    "python -c \"from facenet_pytorch import InceptionResnetV1; InceptionResnetV1(pretrained='vggface2')\""
)


def cached_weights() -> Path:
    """Say where facenet-pytorch keeps its download: $TORCH_HOME/checkpoints, or the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "torch"
    return Path(os.environ.get("TORCH_HOME", cache)).expanduser() / "checkpoints" / WEIGHTS_FILE


class FacenetEmbedder:
    """Embed face crops with InceptionResnetV1 into 512 dimensions.

    Its levels have not been measured here (the weights were not at hand). It was trained on MTCNN's boxes with a margin: of six
    photographs these show 1.22 of the standard crop (1.10 to 1.33), their middle 0.09 of it lower, and so does the aligned crop.
    """

    crop_size = 160
    span, lower = 1.22, 0.09
    levels = Levels(same_person=0.6, stranger=0.4)

    def __init__(self, weights: str | Path | None = None, device: str = "cpu"):
        path = Path(weights) if weights else cached_weights()
        need_file(path, "face embedding weights", f"on a machine with network: {DOWNLOAD_COMMAND}")
        model = import_facenet().InceptionResnetV1(pretrained=None, classify=False)
        state = torch.load(path, map_location="cpu", weights_only=True)
        # The public file also holds the classifier's logits; anything else that is missing or left over is another network.
        missing, unexpected = model.load_state_dict(state, strict=False)
        strange = [key for key in [*missing, *unexpected] if not key.startswith("logits.")]
        if strange:
            raise MachineError(f"{path} does not hold InceptionResnetV1 weights (first odd key: {strange[0]})")
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)

    def crop(
        self, image: torch.Tensor, box: tuple[float, float, float, float], landmarks: np.ndarray | None
    ) -> torch.Tensor:
        """Cut an aligned face uint8 [3, 160, 160]."""
        return face_crop(image, box, landmarks, self.crop_size, self.span, self.lower)

    @torch.no_grad()
    def embed(self, crops: torch.Tensor) -> np.ndarray:
        """Embed uint8 crops [n, 3, 160, 160] as unit vectors float32 [n, 512]."""
        if not len(crops):
            return np.zeros((0, 512), np.float32)
        pixels = (crops.to(self.device, torch.float32) - 127.5) / 128.0
        return normalize(self.model(pixels), dim=-1).cpu().numpy()


class FacenetFinder(FaceFinder):
    """Find faces with MTCNN and embed them with InceptionResnetV1.

    `embedder` None loads the VGGFace2 weights (MachineError names the one command when they are absent); False finds only.
    """

    def __init__(
        self,
        embedder: Embedder | Literal[False] | None = None,
        weights: str | Path | None = None,
        device: str = "cpu",
        **settings: Any,
    ):
        super().__init__(FacenetEmbedder(weights, device) if embedder is None else embedder, device, **settings)

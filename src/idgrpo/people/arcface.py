"""Faces in real videos with an ArcFace network: an ONNX file (InsightFace's or any other) or a torch IR-ResNet checkpoint.

Nothing is fetched. InsightFace's own models (buffalo, antelope) are for non-commercial research only; other files have licences of
their own. Sources: ArcFace arXiv 1801.07698; the network is InsightFace's `iresnet.py`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from idgrpo.errors import MachineError
from idgrpo.people.align import TEMPLATE_PX
from idgrpo.people.contract import Embedder, Levels, file_content
from idgrpo.people.faces import FaceFinder, need_file

GET_WEIGHTS = (
    "give a local file: --finder-weights w600k_r50.onnx, or a torch checkpoint of an IR-ResNet "
    "(InsightFace's models: non-commercial research only)"
)
# Blocks of the four stages, by the number of blocks in the third, where the depths differ (InsightFace's iresnet18 to iresnet200).
DEPTHS = {2: (2, 2, 2, 2), 4: (3, 4, 6, 3), 14: (3, 4, 14, 3), 30: (3, 13, 30, 3), 60: (6, 26, 60, 6)}
# Of public ArcFace networks; not measured here. The finder's options `same_person` and `stranger` replace them.
ARCFACE = Levels(same_person=0.4, stranger=0.25)


class OnnxEmbedder:
    """Embed aligned faces with an ONNX recognition network: one input [n, 3, s, s] (or [n, s, s, 3]), one output [n, d].

    Pixels are RGB, minus 127.5, divided by `std` (127.5 as InsightFace's `ArcFaceONNX` has it); networks that hold these steps
    themselves take `std` 1 and `mean` 0.
    """

    levels = ARCFACE

    def __init__(self, weights: str | Path, device: str = "cpu", mean: float = 127.5, std: float = 127.5):
        try:
            import onnxruntime
        except ImportError as error:
            raise MachineError("an ONNX network needs onnxruntime", fix="pip install 'idgrpo[faces]'") from error
        path = need_file(Path(weights), "recognition network", GET_WEIGHTS)
        providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        have = onnxruntime.get_available_providers()
        if missing := [name for name in providers if name not in have]:
            raise MachineError(
                f"onnxruntime has no {missing[0]} here", fix="pip install onnxruntime-gpu, or --device cpu"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, [*providers, "CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes, one a kind of fault
            raise MachineError(f"{path} is no network that onnxruntime reads: {error}", fix=GET_WEIGHTS) from error
        entries = self.session.get_inputs()
        shape = entries[0].shape
        if len(entries) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise MachineError(f"{path} takes {[e.shape for e in entries]}, not faces [n, 3, s, s]", fix=GET_WEIGHTS)
        self.input, self.channels_last = entries[0].name, shape[1] != 3
        side = shape[2]
        self.crop_size = side if isinstance(side, int) and side > 0 else TEMPLATE_PX
        self.batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        self.mean, self.std, self.content = mean, std, file_content(path).hex()

    def fingerprint(self) -> str:
        """Say which file with which numbers: a session cannot be hashed."""
        return f"{self.content} {self.mean} {self.std}"

    def embed(self, crops: torch.Tensor) -> np.ndarray:
        """Embed uint8 crops [n, 3, s, s] as unit vectors float32 [n, d]."""
        pixels = (crops.numpy().astype(np.float32) - self.mean) / self.std
        pixels = pixels.transpose(0, 2, 3, 1) if self.channels_last else pixels
        # A network exported for one face at a time takes them one at a time.
        parts = [pixels[k : k + (self.batch or 64)] for k in range(0, len(pixels), self.batch or 64)]
        vectors = np.concatenate([self._run(part) for part in parts]) if parts else np.zeros((0, 1), np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        short = (self.batch or len(pixels)) - len(pixels)
        padded = np.concatenate([pixels, np.zeros((short, *pixels.shape[1:]), np.float32)]) if short else pixels
        values = self.session.run(None, {self.input: np.ascontiguousarray(padded)})[0]
        return np.asarray(values, np.float32).reshape(len(padded), -1)[: len(pixels)]


class _Block(nn.Module):
    """One residual block of InsightFace's IR-ResNet; the names are those of its checkpoints."""

    def __init__(self, inner: int, outer: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.prelu = nn.PReLU(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        resized = stride != 1 or inner != outer
        self.downsample = nn.Sequential(
            *([nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)] if resized else [])
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return changed + self.downsample(x)


class IResNet(nn.Module):
    """InsightFace's IR-ResNet: faces [n, 3, 112, 112] in -1..1 -> [n, d]."""

    def __init__(self, blocks: tuple[int, ...], num_features: int = 512, widths: tuple[int, ...] = (64, 128, 256, 512)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1, self.prelu = nn.BatchNorm2d(64), nn.PReLU(64)
        inner, stages = 64, []
        for count, outer in zip(blocks, widths, strict=True):
            stages.append(nn.Sequential(_Block(inner, outer, 2), *(_Block(outer, outer, 1) for _ in range(count - 1))))
            inner = outer
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = nn.BatchNorm2d(inner)
        self.fc = nn.Linear(inner * 49, num_features)
        self.features = nn.BatchNorm1d(num_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.bn2(x).flatten(1)))


class IResNetEmbedder:
    """Embed aligned faces with a torch checkpoint of InsightFace's IR-ResNet (18 to 200 layers; read from its keys)."""

    crop_size = TEMPLATE_PX
    levels = ARCFACE

    def __init__(self, weights: str | Path, device: str = "cpu"):
        path = need_file(Path(weights), "recognition network", GET_WEIGHTS)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch each have classes of their own
            raise MachineError(f"{path} is no torch checkpoint: {error}", fix=GET_WEIGHTS) from error
        state = state.get("state_dict", state) if isinstance(state, dict) else {}
        state = {key.removeprefix("module.").removeprefix("backbone."): value for key, value in state.items()}
        third = {key.split(".")[1] for key in state if key.startswith("layer3.")}
        if len(third) not in DEPTHS or "fc.weight" not in state:
            raise MachineError(
                f"{path} holds no IR-ResNet of InsightFace ({len(third)} blocks in layer3)", fix=GET_WEIGHTS
            )
        model = IResNet(DEPTHS[len(third)], state["fc.weight"].shape[0])
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise MachineError(f"{path} does not fit an IR-ResNet: {error}", fix=GET_WEIGHTS) from error
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)

    @torch.no_grad()
    def embed(self, crops: torch.Tensor) -> np.ndarray:
        """Embed uint8 crops [n, 3, 112, 112] as unit vectors float32 [n, d]."""
        pixels = (crops.to(self.device, torch.float32) - 127.5) / 127.5
        return normalize(self.model(pixels), dim=-1).cpu().numpy()


def load_recognition(weights: str | Path | None, device: str = "cpu", **numbers: float) -> Embedder:
    """Load a recognition network by the kind of its file: `.onnx`, else a torch checkpoint."""
    if weights is None:
        raise MachineError("the finder arcface has no weights of its own", fix=GET_WEIGHTS)
    if Path(weights).suffix.lower() == ".onnx":
        return OnnxEmbedder(weights, device, **numbers)
    return IResNetEmbedder(weights, device)


class ArcfaceFinder(FaceFinder):
    """Find faces with MTCNN, align them to the standard template, embed them with the recognition network in a local file.

    `mean` and `std` are for ONNX files whose pixels are scaled otherwise.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        device: str = "cpu",
        mean: float = 127.5,
        std: float = 127.5,
        **settings: Any,
    ):
        numbers = {"mean": mean, "std": std} if str(weights).lower().endswith(".onnx") else {}
        super().__init__(load_recognition(weights, device, **numbers), device, **settings)

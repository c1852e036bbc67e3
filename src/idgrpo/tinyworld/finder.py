"""`TinyFinder`: finds and embeds people of the embedded world by a small trained network.

It is the independent measure of evaluation: it shares neither code nor weights with the annotators' template oracle, and
it sees portraits and pixels only, never the codes of people.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from idgrpo.errors import ArtifactError
from idgrpo.people.contract import Detection
from idgrpo.tinyworld.finder_net import STRIDE, FinderNet, embedding

WEIGHTS = Path(__file__).parent / "checkpoints" / "tiny-finder" / "model.safetensors"
MIN_SCORE = 0.4
MAX_PEOPLE = 8
HALF_WIDTH_PX, ABOVE_PX, BELOW_PX = 5.0, 8.5, 11.0  # a person's box around the point that the network looks for


class TinyFinder:
    """Find people in clips of the embedded world (a `Finder`); `covers` says what a box holds."""

    covers = "person"

    def __init__(self, weights: Path = WEIGHTS, device: str = "cpu"):
        if not weights.exists():
            raise ArtifactError(
                f"the finder's weights are missing: {weights}", fix="run `make tinyworld` or install again"
            )
        self.net = FinderNet().eval()
        self.net.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
        self.net.to(device)
        self.device = device

    def find(self, clip: Tensor) -> list[list[Detection]]:
        """Return the people in each frame of a clip uint8 [frame, 3, height, width], best first."""
        return self.find_many([clip])[0]

    @torch.no_grad()
    def find_many(self, clips: Sequence[Tensor]) -> list[list[list[Detection]]]:
        """Return what `find` returns for each clip; clips of equal width and height go through the network together."""
        if len({clip.shape[1:] for clip in clips}) > 1:
            return [self.find(clip) for clip in clips]
        if not clips:
            return []
        frames = torch.cat(list(clips))
        predictions = self.net(frames.to(self.device).float() / 255).cpu()
        heat = predictions[:, 0].sigmoid()
        peaks = (heat == F.max_pool2d(heat.unsqueeze(1), 3, 1, 1).squeeze(1)) & (heat > MIN_SCORE)
        found, start = [], 0
        height, width = frames.shape[-2:]
        for clip in clips:
            rows = range(start, start + len(clip))
            found.append([self._detections(i - start, heat[i], peaks[i], predictions[i], width, height) for i in rows])
            start = rows.stop
        return found

    @torch.no_grad()
    def embed_reference(self, image: Tensor) -> np.ndarray:
        """Return the embedding of the person in a portrait uint8 [3, height, width]: at the strongest peak."""
        prediction = self.net(image.to(self.device).float().unsqueeze(0) / 255)[0].cpu()
        place = int(prediction[0].flatten().argmax())
        return embedding(prediction[3:].flatten(1)[:, place]).numpy()

    def _detections(
        self, frame: int, heat: Tensor, peaks: Tensor, prediction: Tensor, width: int, height: int
    ) -> list[Detection]:
        places = peaks.nonzero()
        scores = heat[places[:, 0], places[:, 1]]
        found = []
        for row, column in places[scores.argsort(descending=True)][:MAX_PEOPLE].tolist():
            shift_x, shift_y = prediction[1:3, row, column].tolist()
            x, y = (column + 0.5) * STRIDE + shift_x, (row + 0.5) * STRIDE + shift_y
            box = (
                max(0.0, x - HALF_WIDTH_PX),
                max(0.0, y - ABOVE_PX),
                min(width, x + HALF_WIDTH_PX),
                min(height, y + BELOW_PX),
            )
            vector = embedding(prediction[3:, row, column]).numpy()
            found.append(Detection(frame=frame, box=box, score=float(heat[row, column]), embedding=vector))
        return found

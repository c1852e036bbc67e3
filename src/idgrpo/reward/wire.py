"""How clips travel to a scoring service and scores come back: safetensors bytes one way, JSON the other.

A service of one's own may take plain JSON instead; it says so in /health by `"protocol": "idgrpo-json-1"` (docs/howto/own-reward.md).
"""

import base64
import io
import json
import math
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from idgrpo.errors import DataError
from idgrpo.reward.inputs import FrameRates, References, SeenClip, Video, Videos, frame_rates
from idgrpo.reward.score import RewardFailure, Score

TYPE = "application/x-safetensors"
JSON_TYPE = "application/json"
JSON_PROTOCOL = "idgrpo-json-1"
Request = tuple[list[Video], list[list[Tensor]], list[str], list[float | None]]


def pack_request(videos: Videos, references: References, prompts: Sequence[str], fps: FrameRates = None) -> bytes:
    """Write one scoring request; tensors keep their exact bytes, so remote and local scores are the same.

    The same memory, such as a clip that is scored against several reference sets, travels once.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[object, str] = {}

    def name_of(tensor: Tensor, kind: str) -> str:
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else object()
        if key not in names:
            names[key] = f"{kind}.{len(names)}"
            tensors[names[key]] = tensor.detach().cpu().contiguous().clone()
        return names[key]

    rows = []
    for video, images, prompt, rate in zip(videos, references, prompts, frame_rates(fps, len(videos)), strict=True):
        seen = video if isinstance(video, SeenClip) else SeenClip(video, len(video), rate)
        rows.append(
            {
                "video": name_of(seen.frames, "video"),
                "seen_of": seen.num_clip_frames if isinstance(video, SeenClip) else None,
                "photos": [name_of(image, "photo") for image in images],
                "prompt": prompt,
                "fps": seen.fps,
            }
        )
    header = torch.frombuffer(bytearray(json.dumps({"rows": rows}).encode()), dtype=torch.uint8)
    return save({"header": header, **tensors})


def pack_json(videos: Videos, references: References, prompts: Sequence[str], fps: FrameRates = None) -> bytes:
    """Write one request in the plain protocol: {"clips": [{"frames": [PNG, ..], "references": [PNG, ..], "prompt", "fps"}]}.

    Pictures are PNG files in base64, so that nothing is lost; fps is null where it is not known.
    """
    rows = [
        {
            "frames": [_png(frame) for frame in (video.frames if isinstance(video, SeenClip) else video)],
            "references": [_png(photo) for photo in photos],
            "prompt": prompt,
            "fps": rate,
        }
        for video, photos, prompt, rate in zip(videos, references, prompts, frame_rates(fps, len(videos)), strict=True)
    ]
    return json.dumps({"clips": rows}).encode()


def _png(image: Tensor) -> str:
    """Write uint8 [3, height, width] as a PNG file in base64."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "png", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def unpack_request(body: bytes) -> Request:
    """Read a request; anything malformed is a DataError."""
    try:
        tensors = load(body)
        rows = json.loads(tensors["header"].numpy().tobytes().decode())["rows"]
        videos: list[Video] = []
        for row in rows:
            frames, seen_of = tensors[row["video"]], row["seen_of"]
            videos.append(frames if seen_of is None else SeenClip(frames, int(seen_of), _rate(row["fps"])))
        return (
            videos,
            [[tensors[name] for name in row["photos"]] for row in rows],
            [str(row["prompt"]) for row in rows],
            [_rate(row["fps"]) for row in rows],
        )
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"not a scoring request: {type(error).__name__} {error}") from error


def _rate(value: object) -> float | None:
    if value is not None and not isinstance(value, (int, float)):
        raise ValueError(f"fps is {value!r}")
    return None if value is None else float(value)


def pack_scores(results: Sequence[Score]) -> list[dict]:
    """Write scores or failures; a float keeps all its digits."""
    return [{"failure": r.reason} if isinstance(r, RewardFailure) else {"score": r} for r in results]


def unpack_scores(document: object, num_clips: int) -> list[Score]:
    """Read one result per clip; anything else is a DataError, never a made-up number."""
    rows = document.get("results") if isinstance(document, dict) else None
    if not isinstance(rows, list) or len(rows) != num_clips:
        raise DataError(
            f"the service answered with {len(rows) if isinstance(rows, list) else 'no'} results, not {num_clips}"
        )
    found: list[Score] = []
    for row in rows:
        score = row.get("score") if isinstance(row, dict) else None
        if isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score):
            found.append(float(score))
        elif isinstance(row, dict) and isinstance(row.get("failure"), str):
            found.append(RewardFailure(row["failure"]))
        else:
            raise DataError(f"the service answered with something that is neither a score nor a failure: {row!r}")
    return found

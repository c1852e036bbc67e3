"""How clips travel to a scoring service and scores come back: safetensors bytes one way, JSON the other."""

import json
import math
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from idgrpo.errors import DataError
from idgrpo.reward.inputs import References
from idgrpo.reward.score import RewardFailure

TYPE = "application/x-safetensors"


def pack_request(videos: Sequence[Tensor] | Tensor, references: References, prompts: Sequence[str]) -> bytes:
    """Write one scoring request; tensors keep their exact bytes, so remote and local scores are the same."""
    header = json.dumps({"prompts": list(prompts), "num_references": [len(images) for images in references]})
    tensors = {"header": torch.frombuffer(bytearray(header.encode()), dtype=torch.uint8)}
    for index, video in enumerate(videos):
        tensors[f"video.{index}"] = video.contiguous().clone()
        for place, image in enumerate(references[index]):
            tensors[f"reference.{index}.{place}"] = image.contiguous().clone()
    return save(tensors)


def unpack_request(body: bytes) -> tuple[list[Tensor], list[list[Tensor]], list[str]]:
    """Read a request; anything malformed is a DataError."""
    try:
        tensors = load(body)
        header = json.loads(bytes(tensors["header"].tolist()).decode())
        prompts = [str(prompt) for prompt in header["prompts"]]
        counts = [int(count) for count in header["num_references"]]
        videos = [tensors[f"video.{i}"] for i in range(len(prompts))]
        references = [[tensors[f"reference.{i}.{k}"] for k in range(count)] for i, count in enumerate(counts)]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"not a scoring request: {type(error).__name__} {error}") from error
    if len(references) != len(videos):
        raise DataError(f"{len(videos)} videos and {len(references)} reference sets")
    return videos, references, prompts


def pack_scores(results: Sequence[float | RewardFailure]) -> list[dict]:
    """Write scores or failures; a float keeps all its digits."""
    return [{"failure": r.reason} if isinstance(r, RewardFailure) else {"score": r} for r in results]


def unpack_scores(document: object, num_clips: int) -> list[float | RewardFailure]:
    """Read one result per clip; anything else is a DataError, never a made-up number."""
    rows = document.get("results") if isinstance(document, dict) else None
    if not isinstance(rows, list) or len(rows) != num_clips:
        raise DataError(
            f"the service answered with {len(rows) if isinstance(rows, list) else 'no'} results, not {num_clips}"
        )
    found: list[float | RewardFailure] = []
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("score"), float) and math.isfinite(row["score"]):
            found.append(row["score"])
        elif isinstance(row, dict) and isinstance(row.get("failure"), str):
            found.append(RewardFailure(row["failure"]))
        else:
            raise DataError(f"the service answered with something that is neither a score nor a failure: {row!r}")
    return found

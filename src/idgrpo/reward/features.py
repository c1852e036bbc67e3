"""Features of many clips, computed once and kept on disk in chunks: a stopped run goes on, another run starts at once."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from idgrpo.records.atomic import replacing
from idgrpo.reward.data import Clip, read_clip
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.model import RewardNetwork
from idgrpo.reward.score import clip_features

CHUNK = 64  # clips decoded at once
READING = "own frame rates"  # how clips are read; features made in another way are not taken

log = logging.getLogger(__name__)


def features_of(
    clips: Sequence[Clip],
    network: RewardNetwork,
    builder: InputBuilder,
    *,
    folder: Path | None = None,
    batch: int = 16,
    advance: Callable[[int], None] = lambda num: None,
) -> dict[Clip, Tensor]:
    """Return float32 features "width" of each distinct clip, in bounded memory.

    Args:
        folder: where chunks of 64 clips are kept; a chunk that is there is read, not computed. The folder belongs to
            one list of clips and one backbone (see `feature_folder`).
        advance: called with the number of clips done.

    Raises:
        DataError: a clip cannot be decoded; the message names the file.
    """
    unique = list(dict.fromkeys(clips))
    found: dict[Clip, Tensor] = {}
    for start in range(0, len(unique), CHUNK):
        part = unique[start : start + CHUNK]
        path = folder / f"features-{start // CHUNK:05d}.safetensors" if folder else None
        rows = _kept(path, len(part))
        if rows is None:
            decoded = [read_clip(clip, builder.settings) for clip in part]
            rows = clip_features(
                network,
                builder,
                [d[0] for d in decoded],
                [d[1] for d in decoded],
                [c.prompt for c in part],
                batch=batch,
            )
            if path is not None:
                _publish(rows, path)
        found.update(zip(part, rows, strict=True))
        advance(len(part))
    return found


def feature_folder(root: Path, model: str, clips: Sequence[Clip], batch: int) -> Path:
    """Name the folder below `root` that holds the features of these clips, in this order, by this model.

    Videos and photos count with path, size and time of change, so that a file made again is read again. The list counts
    as a whole, because a batch's company may move the last bit of a feature and equal runs must end with equal weights.

    Args:
        model: digest of checkpoint and preprocessing.
    """
    digest = hashlib.sha256(f"{model}\n{READING}\n{batch}\n".encode())
    for clip in clips:
        for path in (clip.video, *clip.photos):
            facts = os.stat(path)
            digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
        digest.update(f"{clip.prompt}\n{'at rest' if clip.at_rest else ''}\n".encode())
    return root / digest.hexdigest()[:24]


def feature_scale(differences: Tensor) -> Tensor:
    """Return the root mean square of feature differences "pair width": one number, because small columns are small for a reason."""
    return differences.square().mean().sqrt().clamp(min=1e-12)


def _kept(path: Path | None, num_clips: int) -> Tensor | None:
    """Read a chunk; one that is not there, damaged or of another length is made again."""
    if path is None or not path.is_file():
        return None
    try:
        rows = load_file(path)["features"]
    except (SafetensorError, OSError, KeyError):
        log.warning("%s is damaged; its %d clips are read again", path, num_clips)
        return None
    return rows if len(rows) == num_clips and bool(rows.isfinite().all()) else None


def _publish(rows: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        save_file({"features": rows.contiguous().to(torch.float32)}, draft)

"""The stages as functions: references or paths and settings in, an artifact out; the same that the commands call.

Reads artifacts, files and folders; writes artifacts into the store, and runs that can go on after a kill.
"""

from typing import TYPE_CHECKING

from idgrpo.stages.annotate import annotate
from idgrpo.stages.cases import cases
from idgrpo.stages.distort import distort
from idgrpo.stages.evaluate import evaluate
from idgrpo.stages.sample import load_tuned_base, sample
from idgrpo.stages.source import Given, Source
from idgrpo.stages.train_policy import train_policy
from idgrpo.stages.train_rm import load_reward_model, train_rm
from idgrpo.stages.variants import read_samples
from idgrpo.stages.work import Plan
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def read_video(path: "Path | str") -> "Tensor":
    """Read a clip: uint8 "frame channel height width". DataError when the file is no video."""
    from idgrpo.video.read import read_video

    return read_video(path)


def read_image(path: "Path | str") -> "Tensor":
    """Read a photo: uint8 "channel height width". DataError when the file is no picture."""
    from idgrpo.video.read import read_image

    return read_image(path)


__all__ = [
    "Artifact", "Given", "Plan", "Source", "Store", "annotate", "cases", "distort", "evaluate", "load_reward_model",
    "load_tuned_base", "read_image", "read_samples", "read_video", "sample", "train_policy", "train_rm",
]  # fmt: skip

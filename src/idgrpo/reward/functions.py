"""Rewards that are Python functions: (frames, references, prompt) -> float, or None where there is no score.

    def brightness(frames: Tensor, references: list[Tensor], prompt: str) -> float | None:
        return float(frames.float().mean()) / 255

frames are uint8 [frame, 3, height, width], references one photo a person, uint8 [3, height, width]. A class is made first,
once, with `device=..` where it takes one, and its object is called.
"""

import hashlib
import inspect
import math
import traceback
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor

from idgrpo.errors import DataError, IdgrpoError, MachineError, UsageError
from idgrpo.plugins import Registry, load, source_file
from idgrpo.reward.inputs import FrameRates, References, SeenClip, Videos
from idgrpo.reward.score import RewardFailure, Score

REWARDS = Registry("idgrpo.rewards", {})
"""Rewards that installed packages bring, by name; we have none of our own but reward models."""

OUTAGES = (OSError, TimeoutError, MachineError)
"""What a caller waits for and tries again: a service that is away. Any other exception is a fault."""


class FunctionReward:
    """Score by a function; a failure of one clip (None, a number that is not finite, DataError) leaves the others alone.

    An outage (OSError, TimeoutError, MachineError) is passed on: the caller waits and tries again. Any other exception is a
    fault of the function and stops the run: an IdgrpoError that names its line.
    """

    tie_threshold = 0.0

    def __init__(self, function: Callable[[Tensor, list[Tensor], str], Any], digest: str, target: str = "the reward"):
        self.function, self.digest, self.target = function, digest, target

    @classmethod
    def load(cls, target: str, device: str = "cpu") -> "FunctionReward":
        """Import `package.module:callable`. Raises UsageError when it cannot be imported or called."""
        found = load(target, "the reward")
        made = found
        if isinstance(found, type):
            try:
                takes_device = "device" in inspect.signature(found).parameters
                made = found(device=device) if takes_device else found()
            except (IdgrpoError, OSError):
                raise
            except Exception as error:  # whatever a foreign class raises
                raise UsageError(f"the reward {target} cannot be made: {_said(error)}", fix="mend the class") from error
        if not callable(made):
            raise UsageError(f"the reward {target} cannot be called", fix="name a function, or a class with __call__")
        return cls(made, digest_of(target, found), target)

    def score(
        self, videos: Videos, references: References, prompts: Sequence[str], fps: FrameRates = None
    ) -> list[Score]:
        """Score clips one by one; arguments as `RewardModel.score`."""
        found: list[Score] = []
        for video, photos, prompt in zip(videos, references, prompts, strict=True):
            frames = video.frames if isinstance(video, SeenClip) else video
            try:
                value = self.function(frames, list(photos), prompt)
            except DataError as error:
                found.append(RewardFailure(error.message))
                continue
            except (IdgrpoError, *OUTAGES):
                raise
            except Exception as error:  # whatever a foreign function raises
                raise IdgrpoError(
                    f"the reward {self.target} failed: {_said(error)}",
                    fix="mend the function; where it has no score for a clip, let it give None",
                ) from error
            found.append(self._score_of(value))
        return found

    def _score_of(self, value: Any) -> Score:
        if isinstance(value, RewardFailure):
            return value
        if value is None:
            return RewardFailure("the reward function gave no score")
        is_one = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, Real)  # NumPy's too
        if isinstance(value, bool) or not is_one:
            what = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(
                f"the reward {self.target} gives a float or None, not {what}", fix="let it return float(score)"
            )
        number = float(value)
        return number if math.isfinite(number) else RewardFailure(f"the score is {number}")


def _said(error: Exception) -> str:
    """Give kind, text and line of what a foreign function raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"


def digest_of(target: str, found: Any = None) -> str:
    """Give what tells one version of a function from another: its name and the content of the file it stands in."""
    file = source_file(found if found is not None else load(target, "the reward"))
    digest = hashlib.sha256(target.encode())
    if file is not None and Path(file).is_file():
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()

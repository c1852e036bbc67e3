"""What one training of a reward model has at hand."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from idgrpo.reward.config import RewardConfig
from idgrpo.reward.data import Clip
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.model import RewardNetwork
from idgrpo.run.folder import RunFolder
from idgrpo.run.signals import StopSignal


@dataclass
class Session:
    """The network in training, its settings, and where its files go; `cache` keeps features for other runs."""

    config: RewardConfig
    run: RunFolder
    network: RewardNetwork
    builder: InputBuilder
    device: str
    stop: StopSignal
    features: dict[Clip, Tensor]
    cache: Path

"""The trained weights of a base by name: snapshots, swapping, exponential average, exact files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from idgrpo.errors import ArtifactError

Weights = dict[str, Tensor]


def trained_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Give the parameters that training changes, by their names in the module."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def snapshot(weights: dict[str, nn.Parameter]) -> Weights:
    """Copy the current values."""
    return {name: value.detach().clone() for name, value in weights.items()}


@torch.no_grad()
def assign(weights: dict[str, nn.Parameter], values: Weights) -> None:
    """Write values into the parameters in place; names and shapes must match exactly."""
    _check_names(weights, values)
    for name, parameter in weights.items():
        parameter.copy_(values[name])


def _check_names(weights: dict[str, nn.Parameter], values: Weights) -> None:
    if weights.keys() != values.keys():
        differing = sorted(weights.keys() ^ values.keys())[:5]
        raise ArtifactError(
            f"trained weights do not match the checkpoint: {len(weights)} here, {len(values)} there, e.g. {differing}",
            fix="resume with the base and lora settings of the run",
        )


@contextmanager
def swapped(weights: dict[str, nn.Parameter], values: Weights) -> Iterator[None]:
    """Put other values in the parameters' place for a while, without a copy; never between a forward and its backward."""
    _check_names(weights, values)
    kept = {name: parameter.data for name, parameter in weights.items()}
    for name, parameter in weights.items():
        parameter.data = values[name]
    try:
        yield
    finally:
        for name, parameter in weights.items():
            parameter.data = kept[name]


class Average:
    """Exponential average of the trained weights: e <- decay e + (1 - decay) w."""

    def __init__(self, start: Weights, decay: float):
        self.decay = decay
        self.values = {name: value.clone() for name, value in start.items()}

    @torch.no_grad()
    def update(self, weights: dict[str, nn.Parameter]) -> None:
        for name, parameter in weights.items():
            self.values[name].lerp_(parameter.detach(), 1 - self.decay)


def save_weights(path: Path, values: dict[str, Tensor]) -> None:
    """Write values exactly, in their own dtype; a full disk is an OSError, which the library's own writer hides."""
    path.write_bytes(save({name: value.detach().contiguous().cpu() for name, value in values.items()}))


def read_weights(path: Path, device: torch.device | str = "cpu") -> Weights:
    """Read what `save_weights` wrote."""
    return load_file(path, device=str(device))

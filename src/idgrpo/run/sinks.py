"""Copies of a run's metrics for viewers: TensorBoard, trackio, Weights & Biases. They may fail; metrics.jsonl is the truth."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Figures = Mapping[str, float | str]
Write = Callable[[int, dict[str, float]], None]


class Sinks:
    """Hands each row to every sink; one that fails is named once and left out from then on."""

    def __init__(
        self, names: Sequence[str], folder: Path, *, openers: Mapping[str, Callable[[Path], Write]] | None = None
    ):
        self._open = dict(OPENERS if openers is None else openers)
        self._writers: dict[str, Write] = {}
        for name in names:
            self._guarded(name, partial(self._start, name, folder))

    def _start(self, name: str, folder: Path) -> None:
        self._writers[name] = self._open[name](folder)

    def log(self, step: int, figures: Figures) -> None:
        """Write the numbers of a row; text stays in metrics.jsonl."""
        numbers = {key: float(value) for key, value in figures.items() if isinstance(value, (int, float))}
        for name, write in list(self._writers.items()):
            self._guarded(name, partial(write, step, numbers))

    def _guarded(self, name: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except ImportError as error:
            log.warning("metrics sink %s is not installed (%s): pip install 'idgrpo[viewers]'", name, error)
            self._writers.pop(name, None)
        except Exception as error:  # whatever a viewer does wrong must not end a run of days
            log.warning("metrics sink %s failed and is left out from now on: %s", name, error)
            self._writers.pop(name, None)


def open_tensorboard(folder: Path) -> Write:
    """Write event files to folder/tensorboard."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), flush_secs=10)

    def write(step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            head, _, rest = name.partition("_")
            writer.add_scalar(f"{head}/{rest}" if rest else name, value, step)
        writer.flush()

    return write


def open_trackio(folder: Path) -> Write:
    """Log to a trackio project named after the run."""
    import trackio

    trackio.init(project="idgrpo", name=folder.name)
    return lambda step, numbers: trackio.log(numbers, step=step)


def open_wandb(folder: Path) -> Write:
    """Log to a Weights & Biases run that a resumed process continues."""
    import wandb

    run = wandb.init(project="idgrpo", name=folder.name, id=folder.name, resume="allow", dir=str(folder))
    return lambda step, numbers: run.log(numbers, step=step)


OPENERS: dict[str, Callable[[Path], Write]] = {
    "tensorboard": open_tensorboard,
    "trackio": open_trackio,
    "wandb": open_wandb,
}

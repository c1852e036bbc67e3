"""Copies of a run's metrics for viewers: TensorBoard, trackio, Weights & Biases. They may fail; metrics.jsonl is the truth.

A run has one identity for viewers, kept in its folder: a resumed run goes on under it, one begun anew (--force) gets another.
"""

import io
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Figures = Mapping[str, float | str]
IDENTITY_FILE = "viewers-id"
STEP = "update"
GIF_SIDE_PX = 320


@dataclass(frozen=True)
class Begun:
    """What a viewer is told at the start: the run's folder, its identity, and the last step that an earlier process wrote."""

    folder: Path
    identity: str
    step: int


@dataclass(frozen=True)
class RewardedClip:
    """A clip to look at, and its reward."""

    name: str
    path: Path
    reward: float


@dataclass(frozen=True)
class Viewer:
    """How a viewer takes the numbers of a step, and clips."""

    numbers: Callable[[int, dict[str, float]], None]
    clips: Callable[[int, Sequence[RewardedClip]], None]


Open = Callable[[Begun], Viewer]


class Sinks:
    """Hands each row to every sink; one that fails is named once and left out from then on."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        *,
        step: int = 0,
        fresh: bool = True,
        openers: Mapping[str, Open] | None = None,
    ):
        """Open the sinks; step: last one of an earlier process; fresh: the run begins anew, so that viewers show another run."""
        self._open = dict(OPENERS if openers is None else openers)
        self._viewers: dict[str, Viewer] = {}
        if names:
            begun = Begun(folder, run_identity(folder, fresh=fresh), step)
            for name in names:
                self._guarded(name, partial(self._start, name, begun))

    def _start(self, name: str, begun: Begun) -> None:
        self._viewers[name] = self._open[name](begun)

    def log(self, step: int, figures: Figures) -> None:
        """Write the numbers of a row; text stays in metrics.jsonl."""
        numbers = {key: float(value) for key, value in figures.items() if isinstance(value, (int, float))}
        for name, writer in list(self._viewers.items()):
            self._guarded(name, partial(writer.numbers, step, numbers))

    def show(self, step: int, clips: Sequence[RewardedClip]) -> None:
        """Hand over clips with their rewards."""
        for name, writer in list(self._viewers.items()) if clips else ():
            self._guarded(name, partial(writer.clips, step, clips))

    def _guarded(self, name: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except ImportError as error:
            log.warning("metrics sink %s is not installed (%s): pip install 'idgrpo[viewers]'", name, error)
            self._viewers.pop(name, None)
        except Exception as error:  # whatever a viewer does wrong must not end a run of days
            log.warning("metrics sink %s failed and is left out from now on: %s", name, error)
            self._viewers.pop(name, None)


def run_identity(folder: Path, *, fresh: bool) -> str:
    """Give the name under which viewers know a run: the stored one, or a new one for a run that begins anew."""
    file = folder / IDENTITY_FILE
    if not fresh and file.is_file() and (stored := file.read_text(encoding="utf-8").strip()):
        return stored
    identity = f"{folder.name}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(identity + "\n", encoding="utf-8")
    return identity


def open_tensorboard(begun: Begun) -> Viewer:
    """Write event files to folder/tensorboard; what an earlier process wrote after the step of the resume is purged."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

    purge = begun.step + 1 if begun.step else None
    writer = SummaryWriter(str(begun.folder / "tensorboard"), flush_secs=10, purge_step=purge)

    def write(step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            head, _, rest = name.partition("_")
            writer.add_scalar(f"{head}/{rest}" if rest else name, value, step)
        writer.flush()

    def show(step: int, clips: Sequence[RewardedClip]) -> None:
        for place, clip in enumerate(clips):
            content, (width, height) = animation(clip.path)
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
            value = Summary.Value(tag=f"clips/{place + 1}", image=image)
            writer._get_file_writer().add_summary(Summary(value=[value]), step)
            writer.add_text(f"clips/{place + 1}", caption(clip), step)
        writer.flush()

    return Viewer(write, show)


def open_trackio(begun: Begun) -> Viewer:
    """Log to a trackio run that a resumed process continues."""
    import trackio

    trackio.init(project="idgrpo", name=begun.identity, resume="allow")

    def show(step: int, clips: Sequence[RewardedClip]) -> None:
        shown = {f"clips/{n}": trackio.Video(str(c.path), caption=caption(c)) for n, c in enumerate(clips, 1)}
        trackio.log(shown, step=step)

    return Viewer(lambda step, numbers: trackio.log(numbers, step=step), show)


def open_wandb(begun: Begun) -> Viewer:
    """Log to a Weights & Biases run that a resumed process continues.

    The update is a figure of its own and the axis of all others: the viewer's own step never goes back, so rows that a resumed run
    makes again (the same, by construction) would be refused.
    """
    import wandb

    run = wandb.init(project="idgrpo", name=begun.folder.name, id=begun.identity, resume="allow", dir=str(begun.folder))
    run.define_metric("*", step_metric=STEP)

    def show(step: int, clips: Sequence[RewardedClip]) -> None:
        shown = {
            f"clips/{n}": wandb.Video(str(c.path), caption=caption(c), format="mp4") for n, c in enumerate(clips, 1)
        }
        run.log({STEP: step, **shown})

    return Viewer(lambda step, numbers: run.log({STEP: step, **numbers}), show)


def caption(clip: RewardedClip) -> str:
    """Say which clip it is and what it earned."""
    return f"{clip.name}: reward {clip.reward:.3f}"


def animation(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Turn a clip into an animated GIF of at most 320 pixels, which TensorBoard shows among its images; with width and height."""
    from PIL import Image

    from idgrpo.video.probe import probe
    from idgrpo.video.read import read_video

    frames = [Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in read_video(path)]
    for frame in frames:
        frame.thumbnail((GIF_SIDE_PX, GIF_SIDE_PX))
    buffer = io.BytesIO()
    length_ms = round(1000 / (probe(path).fps or 16))
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=length_ms, loop=0)
    return buffer.getvalue(), frames[0].size


OPENERS: dict[str, Open] = {
    "tensorboard": open_tensorboard,
    "trackio": open_trackio,
    "wandb": open_wandb,
}

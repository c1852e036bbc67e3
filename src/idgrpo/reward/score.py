"""Score videos with a trained reward model: from tensors in memory, batched, without a graph, nothing computed twice."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from idgrpo.errors import DataError, MachineError
from idgrpo.reward.checkpoint import checkpoint_digest
from idgrpo.reward.inputs import FrameRates, InputBuilder, References, SeenClip, Video, Videos, content_key, frame_rates
from idgrpo.reward.model import RewardNetwork, load_network
from idgrpo.reward.reading import Row, look_at, read_rows
from idgrpo.run.machine import weights_dtype

NOT_SCORING = (
    "manifest.json",
    "metrics.jsonl",
    "card.png",
    "accuracy.txt",
    "reward.json",
)  # files that change no score
T = TypeVar("T")


@dataclass(frozen=True)
class RewardFailure:
    """Why a video has no score; a failure is never turned into a number."""

    reason: str


Score = float | RewardFailure


class Scores(Protocol):
    """What scores clips: a `RewardModel`, a `RewardClient`."""

    def score(
        self, videos: Videos, references: References, prompts: Sequence[str], fps: FrameRates = None
    ) -> list[Score]:
        """Return one float or failure per clip."""
        ...


def score_sets(
    model: Scores,
    videos: Videos,
    reference_sets: Sequence[Sequence[Sequence[Tensor]]],
    prompts: Sequence[str],
    fps: FrameRates = None,
) -> list[list[Score]]:
    """Score each clip against several reference sets in one call; what they share is computed, and sent, once.

    Args:
        videos, prompts, fps: one per clip, as for `RewardModel.score`.
        reference_sets: per clip its sets, each a list of photos uint8 "channel height width".

    Returns:
        Per clip one float or RewardFailure per set.
    """
    rates = frame_rates(fps, len(videos))
    if not len(videos) == len(reference_sets) == len(prompts):
        raise DataError(f"{len(videos)} videos, {len(reference_sets)} lists of reference sets, {len(prompts)} prompts")
    rows = [(clip, photos) for clip, sets in enumerate(reference_sets) for photos in sets]
    scores = iter(
        model.score(
            [videos[clip] for clip, _ in rows],
            [photos for _, photos in rows],
            [prompts[clip] for clip, _ in rows],
            [rates[clip] for clip, _ in rows],
        )
    )
    return [[next(scores) for _ in sets] for sets in reference_sets]


def one_for_all(photos: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return one reference set per person, in which this person's photo stands in everybody's place.

    The mean score of a clip over them is what it gets for looking like anybody who was asked for, whoever is whom. Source:
    the contrastive reward r(clip, references) - lambda mean_i r(clip, all references = i).
    """
    return [[photo] * len(photos) for photo in photos]


class _Distinct(Generic[T]):
    """Things with one place per key."""

    def __init__(self) -> None:
        self.found: list[T] = []
        self._places: dict[Hashable, int] = {}

    def place(self, key: Hashable, thing: T) -> int:
        if key not in self._places:
            self._places[key] = len(self.found)
            self.found.append(thing)
        return self._places[key]


class _Call:
    """The distinct clips, photos and texts of one call, and which texts each clip's features are the mean of."""

    def __init__(self, builder: InputBuilder):
        self.builder = builder
        self.clips: _Distinct[SeenClip] = _Distinct()
        self.photos: _Distinct[Tensor] = _Distinct()
        self.rows: _Distinct[Row] = _Distinct()
        self.owners: list[list[int]] = []
        self._contents: dict[Hashable, str] = {}

    def add(self, video: Video, images: Sequence[Tensor], prompt: str, rate: float | None) -> None:
        """Note a clip. One photo shown for everybody has one order, whatever the number of people."""
        clip = self.clips.place((_key(video), rate), self.builder.see(video, rate))
        images = images if self.builder.settings.takes_references else ()
        contents = [self._content(image) for image in images]
        places = [
            self.photos.place((text, image.shape), image[None]) for image, text in zip(images, contents, strict=True)
        ]
        orders = self.builder.settings.orders(contents)
        shown = dict.fromkeys((clip, tuple(places[k] for k in order), prompt) for order in orders)
        self.owners.append([self.rows.place(row, row) for row in shown])

    def _content(self, image: Tensor) -> str:
        key = _key(image)
        if key not in self._contents:
            self._contents[key] = content_key(image)
        return self._contents[key]


def _key(video: Video) -> Hashable:
    if isinstance(video, SeenClip):
        return (_key(video.frames), video.num_clip_frames, video.fps)
    return (video.data_ptr(), video.shape, video.stride(), video.device)


def clip_features(
    network: RewardNetwork,
    builder: InputBuilder,
    videos: Videos,
    references: References,
    prompts: Sequence[str],
    *,
    batch: int = 16,
    fps: FrameRates = None,
) -> Tensor:
    """Return float32 features "clip width"; with reference order `average`, the mean over the orders shown.

    Every distinct clip and photo of the call goes through the vision tower once; clips are the same where they are the
    same memory, photos where they have the same content. Texts are read once as well.
    """
    call = _Call(builder)
    for video, images, prompt, rate in zip(videos, references, prompts, frame_rates(fps, len(videos)), strict=True):
        call.add(video, list(images), prompt, rate)
    with torch.inference_mode():
        photos = look_at(network, builder, call.photos.found, batch)
        clips = look_at(network, builder, [clip.frames for clip in call.clips.found], batch)
        features = read_rows(network, builder, call.rows.found, call.clips.found, clips, photos, batch)
    return torch.stack([features[rows].mean(0) for rows in call.owners])


class RewardModel:
    """A trained reward model, ready to score; `tie_threshold` and `digest` (what its scores depend on) come with it.

    Scores are unbounded floats without a zero point: only differences between clips of one prompt and its people mean
    something. One model serves one thread at a time.
    """

    def __init__(
        self, network: RewardNetwork, builder: InputBuilder, card: dict, *, batch: int = 16, digest: str | None = None
    ):
        self.network = network
        self.builder = builder
        self.card = card
        self.batch = batch
        self.tie_threshold: float | None = card.get("tie_threshold")
        self.digest = digest or builder.settings.digest()

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.network.head.weight.device

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu", *, batch: int = 16) -> "RewardModel":
        """Load a directory written by `train-rm` or `artifacts import-rm`.

        On a GPU the weights are bfloat16 with the adapters beside them, elsewhere float32 with the adapters folded in
        (`weights_dtype`); the head is float32 everywhere.

        Args:
            path: the directory (of an artifact: `Store.resolve("rm").path`).
            device: `cpu`, `cuda` or `cuda:1`.
            batch: texts read, and pictures encoded, at once; changes speed and memory only.

        Raises:
            ArtifactError: a file is missing, damaged or of another model, or holds numbers that are not finite.
            MachineError: the weights do not fit into memory.
        """
        network, builder, card = load_network(Path(path), weights_dtype(device))
        try:
            network = network.to(device)
        except torch.OutOfMemoryError as error:
            raise MachineError(f"not enough memory on {device} for {path}: {error}") from error
        return cls(network, builder, card, batch=batch, digest=checkpoint_digest(Path(path), skip=NOT_SCORING))

    def score(
        self, videos: Videos, references: References, prompts: Sequence[str], fps: FrameRates = None
    ) -> list[Score]:
        """Score each clip; equal clips and photos of one call are encoded once.

        Args:
            videos: uint8 clips "frame channel height width", RGB, on the CPU, of any sizes and lengths (or `SeenClip`).
            references: per clip, one photo per person, uint8 "channel height width" of any size.
            prompts: one per clip.
            fps: frames per second, of all clips or of each; None is the model's default (16).

        Returns:
            One float per clip, or a RewardFailure that says why that clip has none (wrong shape, no frames, no pixels, too
            many references, a text that is too long, a score that is not finite). The other clips of the call are scored
            all the same.

        Raises:
            DataError: the lists differ in length.
            MachineError: out of memory.
        """
        if not len(videos) == len(references) == len(prompts):
            raise DataError(f"{len(videos)} videos, {len(references)} reference sets and {len(prompts)} prompts")
        rates = frame_rates(fps, len(videos))
        out: list[Score] = []
        good: list[int] = []
        for index, rate in enumerate(rates):
            problem = self.builder.problem(videos[index], references[index], prompts[index], rate)
            out.append(RewardFailure(problem or "not scored"))
            if problem is None:
                good.append(index)
        if not good:
            return out
        try:
            features = clip_features(
                self.network,
                self.builder,
                [videos[i] for i in good],
                [list(references[i]) for i in good],
                [prompts[i] for i in good],
                batch=self.batch,
                fps=[rates[i] for i in good],
            )
        except torch.OutOfMemoryError as error:
            raise MachineError(
                f"out of memory while scoring {len(good)} clips: {error}", fix="lower --score-batch"
            ) from error
        with torch.inference_mode():
            scores = self.network.score_features(features.to(self.network.head.weight.device)).tolist()
        for index, score in zip(good, scores, strict=True):
            out[index] = score if math.isfinite(score) else RewardFailure(f"the score is {score}")
        return out

"""Look at all videos, a few at a time: bounded memory, and nothing twice thanks to the cache."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from idgrpo.errors import DataError
from idgrpo.evaluate.cache import ObservationCache
from idgrpo.evaluate.config import FindingConfig
from idgrpo.evaluate.copies import photo_prints
from idgrpo.evaluate.observe import assemble
from idgrpo.evaluate.scorer import ClipScorer
from idgrpo.evaluate.subject import Observation
from idgrpo.people.contract import Detection, Finder
from idgrpo.records.digest import file_digest
from idgrpo.records.models import Sample
from idgrpo.run.progress import progress
from idgrpo.video.probe import probe
from idgrpo.video.read import read_image, read_video

MAX_PENDING_BYTES = 256 * 2**20


@dataclass
class Seen:
    """Hold what is known of one sample: its observation, and scores by scorer (None where a scorer failed)."""

    sample: Sample
    digest: str
    request_digest: str
    observation: Observation | None = None
    scores: dict[str, list[float] | None] = field(default_factory=dict)


class ReferenceBook:
    """Embed the references of cases, each image once."""

    def __init__(self, finder: Finder, cache: ObservationCache):
        self.finder, self.cache = finder, cache
        self._known: dict[str, np.ndarray] = {}
        self._prints: dict[str, np.ndarray] = {}
        self._digests: dict[str, str] = {}

    def digest(self, path: str) -> str:
        if path not in self._digests:
            try:
                self._digests[path] = file_digest(Path(path))
            except OSError as error:
                raise DataError(f"reference image {path} cannot be read ({error.strerror})") from error
        return self._digests[path]

    def embed(self, paths: Sequence[str]) -> np.ndarray:
        """Average the embeddings of one person's images (at least one) to a unit vector."""
        total = np.sum([self._embed_one(path) for path in paths], axis=0)
        return (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)

    def prints(self, paths: Sequence[str]) -> np.ndarray:
        """Take the details of the faces in one person's images, float32 [k, 1024]; none where the finder gives no landmarks."""
        return np.concatenate([self._prints_of(path) for path in paths])

    def _prints_of(self, path: str) -> np.ndarray:
        digest = self.digest(path)
        if digest not in self._prints:
            prints = self.cache.prints(digest)
            if prints is None:
                prints = photo_prints(read_image(Path(path)), self.finder)
                self.cache.keep_prints(digest, prints)
            self._prints[digest] = prints
        return self._prints[digest]

    def _embed_one(self, path: str) -> np.ndarray:
        digest = self.digest(path)
        if digest not in self._known:
            vector = self.cache.reference(digest)
            if vector is None:
                try:
                    vector = np.asarray(self.finder.embed_reference(read_image(Path(path))), np.float32)
                except DataError as error:
                    named = error.message if path in error.message else f"{path}: {error.message}"
                    raise DataError(named, fix=error.fix) from error
                self.cache.keep_reference(digest, vector)
            self._known[digest] = vector
        return self._known[digest]


def gather(
    samples: Sequence[Sample],
    finder: Finder,
    scorers: Sequence[ClipScorer],
    cache: ObservationCache,
    book: ReferenceBook,
    config: FindingConfig,
    label: str = "looking at videos",
) -> list[Seen]:
    """Observe and score samples in their order; what the cache knows is not decoded again."""
    seen_all: list[Seen] = []
    with progress(len(samples), label, "video") as bar:
        for batch in _batches(samples, cache, scorers, book, config.batch_size, seen_all):
            _complete(batch, finder, scorers, cache, config)
            bar.advance(len(batch))
    return seen_all


def _batches(
    samples: Sequence[Sample],
    cache: ObservationCache,
    scorers: Sequence[ClipScorer],
    book: ReferenceBook,
    batch_size: int,
    seen_all: list[Seen],
) -> Iterator[list[tuple[Seen, torch.Tensor | None, float]]]:
    """Yield (what is known, clip or None when nothing is missing, fps) in groups of bounded size."""
    batch, pending_bytes = [], 0
    for sample in samples:
        known = _recall(sample, cache, scorers, book)
        seen_all.append(known)
        missing = known.observation is None or any(s.info.name not in known.scores for s in scorers)
        clip, fps = (read_video(Path(sample.video)), probe(Path(sample.video)).fps) if missing else (None, 0.0)
        batch.append((known, clip, fps))
        pending_bytes += clip.numel() if clip is not None else 0
        if len(batch) >= batch_size or pending_bytes >= MAX_PENDING_BYTES:
            yield batch
            batch, pending_bytes = [], 0
    if batch:
        yield batch


def _recall(sample: Sample, cache: ObservationCache, scorers: Sequence[ClipScorer], book: ReferenceBook) -> Seen:
    try:
        digest = file_digest(Path(sample.video))
    except OSError as error:
        raise DataError(f"video {sample.video} of sample {sample.id!r} cannot be read ({error.strerror})") from error
    parts = [digest, sample.prompt] + [f"{r.person}:{book.digest(p)}" for r in sample.references for p in r.images]
    request = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    known = Seen(sample, digest, request, cache.observation(digest))
    for scorer in scorers:
        scores = cache.scores(request, scorer.cache_name())
        if scores is not None:
            known.scores[scorer.info.name] = scores
    return known


def _complete(
    batch: Sequence[tuple[Seen, torch.Tensor | None, float]],
    finder: Finder,
    scorers: Sequence[ClipScorer],
    cache: ObservationCache,
    config: FindingConfig,
) -> None:
    """Fill in what is missing in a batch and keep it."""
    # `_batches` reads the clip of everything that lacks something.
    readable = [(known, clip, fps) for known, clip, fps in batch if clip is not None]
    blind = [(known, clip, fps) for known, clip, fps in readable if known.observation is None]
    for (known, clip, fps), found in zip(blind, _find(finder, [clip for _, clip, _ in blind]), strict=True):
        known.observation = assemble(clip, found, config, fps)
        cache.keep_observation(known.digest, known.observation)
    for scorer in scorers:
        name = scorer.info.name
        open_ones = [(known, clip, fps) for known, clip, fps in readable if name not in known.scores]
        if not open_ones:
            continue
        seen, clips, rates = zip(*open_ones, strict=True)
        results = scorer.score(clips, [known.sample for known in seen], rates)
        for known, values in zip(seen, results, strict=True):
            known.scores[name] = values
            if values is not None:
                cache.keep_scores(known.request_digest, scorer.cache_name(), values)


def _find(finder: Finder, clips: list[torch.Tensor]) -> list[list[list[Detection]]]:
    """Find people in several clips, in one call where the finder offers `find_many` and sizes agree."""
    many = getattr(finder, "find_many", None)
    if many is not None and len(clips) > 1 and len({tuple(clip.shape) for clip in clips}) == 1:
        return list(many(clips))
    return [finder.find(clip) for clip in clips]

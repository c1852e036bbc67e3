"""Look at all videos, a few at a time: bounded memory, and nothing twice thanks to the cache."""

import hashlib
from collections.abc import Sequence
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
from idgrpo.run.dealing import Dealing
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
    with progress(len(samples), label, "video") as bar:
        found: list[Seen] = []
        for block in _blocks(samples, config):
            found += _look_at(block, finder, scorers, cache, book, config)
            bar.advance(len(block))
    return found


def deal_out(
    samples: Sequence[Sample],
    finder: Finder,
    scorers: Sequence[ClipScorer],
    cache: ObservationCache,
    book: ReferenceBook,
    config: FindingConfig,
    dealing: Dealing,
) -> None:
    """Fill the cache together with other processes; `gather` then finds everything in it."""
    places = list(enumerate(_blocks(samples, config)))
    shared = dealing.share(
        places, lambda place: str(place[0]), label="looking at videos", unit="videos", count=lambda place: len(place[1])
    )
    for _, block in shared:
        _look_at(block, finder, scorers, cache, book, config, whole=True)


def _blocks(samples: Sequence[Sample], config: FindingConfig) -> list[Sequence[Sample]]:
    """Cut samples into the blocks that are looked at together: always the same ones, whatever is known already."""
    return [samples[start : start + config.batch_size] for start in range(0, len(samples), config.batch_size)]


def _look_at(
    block: Sequence[Sample],
    finder: Finder,
    scorers: Sequence[ClipScorer],
    cache: ObservationCache,
    book: ReferenceBook,
    config: FindingConfig,
    *,
    whole: bool = False,
) -> list[Seen]:
    """Recall what is known of a block and make the rest, at most `MAX_PENDING_BYTES` of pixels at a time.

    whole: where one score of such a part is missing, score all of it. The last bits of a score depend on what is scored
    together, and a kill may have left some scores of the part.
    """
    seen = [_recall(sample, cache, scorers, book) for sample in block]
    part: list[Seen] = []
    part_bytes = 0
    for known in seen:
        info = probe(Path(known.sample.video))
        part.append(known)
        part_bytes += 3 * info.frames * info.width * info.height
        if part_bytes >= MAX_PENDING_BYTES or known is seen[-1]:
            _complete(part, finder, scorers, cache, config, whole)
            part, part_bytes = [], 0
    return seen


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
    part: Sequence[Seen],
    finder: Finder,
    scorers: Sequence[ClipScorer],
    cache: ObservationCache,
    config: FindingConfig,
    whole: bool,
) -> None:
    """Fill in what is missing and keep it."""
    blind = [known for known in part if known.observation is None]
    lacking = {s.info.name: [known for known in part if s.info.name not in known.scores] for s in scorers}
    if whole:
        lacking = {name: list(part) for name, those in lacking.items() if those}
    needed = {id(known): known for those in (blind, *lacking.values()) for known in those}
    clips = {key: read_video(Path(known.sample.video)) for key, known in needed.items()}
    rates = {key: probe(Path(known.sample.video)).fps for key, known in needed.items()}
    found = _find(finder, [clips[id(known)] for known in blind])
    for known, detections in zip(blind, found, strict=True):
        known.observation = assemble(clips[id(known)], detections, config, rates[id(known)])
        cache.keep_observation(known.digest, known.observation)
    for scorer in scorers:
        if not (those := lacking.get(scorer.info.name)):
            continue
        results = scorer.score(
            [clips[id(known)] for known in those], [k.sample for k in those], [rates[id(k)] for k in those]
        )
        for known, values in zip(those, results, strict=True):
            known.scores[scorer.info.name] = values
            if values is not None:
                cache.keep_scores(known.request_digest, scorer.cache_name(), values)


def _find(finder: Finder, clips: list[torch.Tensor]) -> list[list[list[Detection]]]:
    """Find people in several clips, in one call where the finder offers `find_many` and sizes agree."""
    many = getattr(finder, "find_many", None)
    if many is not None and len(clips) > 1 and len({tuple(clip.shape) for clip in clips}) == 1:
        return list(many(clips))
    return [finder.find(clip) for clip in clips]

"""One clip: read it, find its people, make its pairs, write them. Runs in any process; needs nothing from the others."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from idgrpo.distort import PAINTERS
from idgrpo.distort.config import DistortConfig
from idgrpo.distort.contract import NotPossible, Scene
from idgrpo.distort.files import digest_of, file_digest, write_once
from idgrpo.distort.inputs import slug
from idgrpo.distort.located import Located, likeness, locate, portrait_boxes
from idgrpo.distort.mask_painter import MaskPainter
from idgrpo.distort.material import Gallery, GalleryEntry, material_of
from idgrpo.distort.pair import Made, make_pair, order_of_kinds, plan_pair
from idgrpo.distort.registry import entry_of
from idgrpo.errors import DataError
from idgrpo.people.contract import Finder, levels_of
from idgrpo.people.painter import IdentityPainter
from idgrpo.records.document import parse_json
from idgrpo.records.models import Preference, Reference, Sample
from idgrpo.run.draws import seed_of
from idgrpo.video.probe import probe
from idgrpo.video.read import read_image, read_video
from idgrpo.video.write import write_image, write_video

LOSSLESS_BELOW_PX = 128
Regenerate = Callable[[torch.Tensor, list[torch.Tensor], str, float, int], torch.Tensor]


@dataclass
class Bench:
    """Hold what one process needs for its clips. `folder` receives videos/, references/, people/ and parts/."""

    folder: Path
    config: DistortConfig
    finder: Callable[..., Finder] | None = None
    regenerate: Regenerate | None = None
    _finder: Finder | None = None
    _gallery: Gallery | None = None

    def write_once(self, path: Path, write: Callable[[Path], object]) -> Path:
        """Write a file of `folder` whole, once."""
        return write_once(path, write, self.folder)

    def the_finder(self) -> Finder:
        """Make the finder when the first clip needs it."""
        if self._finder is None:
            if self.finder is None:
                raise DataError(
                    "the clip's people are not known and no finder was given", fix="choose one with --finder"
                )
            self._finder = self.finder(**self.config.people.options)
        return self._finder

    def gallery(self) -> Gallery:
        """Read the gallery that the first pass left."""
        if self._gallery is None:
            held = parse_json((self.folder / "people" / "gallery.json").read_text())
            self._gallery = Gallery(
                [
                    GalleryEntry(
                        row["key"],
                        row["person"],
                        np.array(row["embedding"], np.float32),
                        self.folder / "people" / row["material"],
                    )
                    for row in held
                ],
                self.config.people.most_likeness(levels_of(self.the_finder())),
            )
        return self._gallery


def exact_painter(sample: Sample) -> str | None:
    """Name the painter that knows the truth behind a sample; None for clips that people must be found in."""
    name = sample.sampler.get("painter")
    return name if isinstance(name, str) and name in PAINTERS else None


def read_clip(sample: Sample, config: DistortConfig) -> torch.Tensor:
    """Read a sample's clip, cut at `max_frames`."""
    num_frames = probe(Path(sample.video)).frames
    indices = list(range(config.max_frames)) if num_frames > config.max_frames else None
    clip = read_video(Path(sample.video), indices=indices)
    if len(clip) < 2:
        raise DataError(f"{sample.video}: one frame is not a clip")
    return clip


def is_found(bench: Bench, sample: Sample) -> bool:
    """Tell whether the first pass has been over a clip."""
    folder, name = bench.folder / "people", slug(sample.id)
    made = [folder / f"{name}.npz", *(folder / f"{name}-{slot}.npz" for slot in range(len(sample.references)))]
    return (folder / f"{name}.why.json").exists() or all(path.exists() for path in made)


def find_people(bench: Bench, sample: Sample) -> None:
    """First pass: find one clip's people and keep where they are and what they look like, or why not."""
    if is_found(bench, sample):
        return
    folder = bench.folder / "people"
    name = slug(sample.id)
    reasons = folder / f"{name}.why.json"
    settings = bench.config.people
    try:
        clip = read_clip(sample, bench.config)
        finder = bench.the_finder()
        images = [read_image(Path(r.images[0])) for r in sample.references]
        vectors = [finder.embed_reference(image) for image in images]
        least = settings.least_similarity(levels_of(finder))
        located = locate(clip, vectors, finder, min_similarity=least, min_coverage=settings.min_coverage)
        located = replace(located, portraits=portrait_boxes(images, finder) if located.covers == "face" else None)
    except (NotPossible, DataError) as error:
        text = json.dumps([str(getattr(error, "message", error)), getattr(error, "slot", None)])
        bench.write_once(reasons, lambda path: path.write_text(text, encoding="utf-8"))
        return
    for slot in range(located.num_slots):
        material = material_of(clip, located, slot)
        bench.write_once(folder / f"{name}-{slot}.npz", material.save)
    bench.write_once(folder / f"{name}.npz", located.save)


def _scene(bench: Bench, sample: Sample) -> Scene:
    """Read a clip and gather what is known about its people."""
    clip = read_clip(sample, bench.config)
    painter = _painter(bench, sample, clip)
    portraits = [read_image(Path(r.images[0])) for r in sample.references]
    scene = Scene(clip, painter, portraits, sample.prompt, bench.regenerate)
    if not isinstance(painter, MaskPainter):
        return scene
    located, levels = painter.located, levels_of(bench.the_finder())
    known = [] if located.portraits is None else located.portraits.tolist()
    faces = tuple(None if np.isnan(box).any() else tuple(box) for box in known)
    measure = partial(likeness, located, bench.the_finder(), levels) if levels else None
    return replace(scene, faces=faces, likeness=measure)


def _painter(bench: Bench, sample: Sample, clip: torch.Tensor) -> IdentityPainter:
    name = exact_painter(sample)
    if name is not None:
        module, _, attribute = PAINTERS[name].partition(":")
        painter = getattr(import_module(module), attribute).open(sample, clip)
        if painter is None:
            raise NotPossible(f"the painter {name!r} does not know this clip")
        num_frames, _, height, width = painter.regions().shape
        drawn, seen = (width, height, num_frames), (clip.shape[3], clip.shape[2], len(clip))
        if drawn != seen:
            of, to = ("x".join(map(str, size)) for size in (seen, drawn))
            raise NotPossible(f"the clip is {of}, the scene that its record names {to}")
        return painter
    path = bench.folder / "people" / f"{slug(sample.id)}.npz"
    if not path.exists():
        raise NotPossible(*parse_json(path.with_suffix(".why.json").read_text(encoding="utf-8")))
    return MaskPainter(clip, Located.load(path), [r.person for r in sample.references], bench.gallery())


def _kept_image(bench: Bench, image: torch.Tensor) -> str:
    """Write an image into the output, once, by content."""
    path = bench.folder / "references" / f"{digest_of(image)}.png"
    return str(bench.write_once(path, lambda beside: write_image(beside, image)))


def _kept_reference(bench: Bench, reference: Reference) -> Reference:
    """Copy a reference's images into the output, so that the preferences can be moved alone."""
    return Reference(
        person=reference.person,
        images=[_kept_image(bench, read_image(Path(image))) for image in reference.images],
        second=[_kept_image(bench, read_image(Path(image))) for image in reference.second],
    )


def _kept_clip(bench: Bench, sample: Sample, clip: torch.Tensor, fps: float) -> str:
    """Write a clip, once, by content: both sides of every pair go through the same encoder."""
    lossless = bench.config.lossless
    # Chroma subsampling needs even sides; cutting a row off would change the size that the preferences promise to keep.
    small = min(clip.shape[-2:]) < LOSSLESS_BELOW_PX or bool(clip.shape[-1] % 2 or clip.shape[-2] % 2)
    path = bench.folder / "videos" / slug(sample.id) / f"{digest_of(clip)}.mp4"
    exactly = lossless == "yes" or (lossless == "auto" and small)
    return str(bench.write_once(path, lambda beside: write_video(beside, clip, fps=fps, lossless=exactly)))


def _origin(sample: Sample, made: Made, source_digest: str, painter: IdentityPainter) -> dict[str, Any]:
    entry = entry_of(made.name)
    return {
        "sample": sample.id,
        "source_sha256": source_digest,
        "base": sample.base,
        "seed": made.plan.seed,
        "family": entry.family,
        "painter": type(painter).__name__,
        "better_by": made.better_by,
        "graded_from": made.graded,
        "artefact": made.artefact,
        "artefact_sides": made.plan.artefact_sides,
        "mirrored_slot": made.mirrored[0] if made.mirrored else None,
    }


def _preference(
    bench: Bench,
    sample: Sample,
    references: list[Reference],
    made: Made,
    number: int,
    fps: float,
    origin: dict[str, Any],
) -> Preference:
    prompt, case_id = sample.prompt, sample.case_id
    if made.mirrored is not None:
        slot, asked = made.mirrored
        first, *rest = [_kept_image(bench, image) for image in asked.portraits]
        references = list(references)
        references[slot] = Reference(person=asked.person, images=[first], second=rest)
        prompt, case_id = asked.prompt, f"{sample.case_id}~{asked.person}"
    return Preference(
        pair_id=f"{sample.id}-{number}",
        case_id=case_id,
        prompt=prompt,
        references=references,
        video_a=_kept_clip(bench, sample, made.a, fps),
        video_b=_kept_clip(bench, sample, made.b, fps),
        dimension="motion" if entry_of(made.name).family == "motion" else "identity",
        origin=origin,
        label=made.label,
        source="synthetic",
        distortion=made.name,
        strength=made.strength,
    )


def _person(sample: Sample, error: Exception) -> str | None:
    """Name the person for whose sake something was refused, where it is one's."""
    slot = getattr(error, "slot", None)
    return sample.references[slot].person if slot is not None and slot < len(sample.references) else None


def _part(bench: Bench, index: int) -> Path:
    return bench.folder / "parts" / f"{index:07d}.json"


def is_distorted(bench: Bench, sample: Sample, index: int) -> bool:
    """Tell whether the second pass has been over a clip."""
    return _part(bench, index).exists()


def forget_broken_parts(bench: Bench, num: int) -> None:
    """Remove parts that name files which are gone: their clips are done again."""
    for index in range(num):
        _finished(bench, _part(bench, index))


def _finished(bench: Bench, part_path: Path) -> dict[str, Any] | None:
    """Read a part made before; None where there is none, or where files that it names are gone (a folder half removed)."""
    if not part_path.exists():
        return None
    part = parse_json(part_path.read_text(encoding="utf-8"))
    for row in part["preferences"]:
        images = [image for reference in row["references"] for image in (*reference["images"], *reference["second"])]
        if not all((bench.folder / path).is_file() for path in (row["video_a"], row["video_b"], *images)):
            part_path.unlink()
            return None
    return part


def distort_sample(bench: Bench, sample: Sample, index: int, position: float) -> dict[str, Any]:
    """Second pass: make the pairs of one clip; write and return its part (preferences and what was skipped, with reasons).

    Everything is drawn from (seed, sample id, pair number): the order of clips and the number of processes do not matter.
    """
    part_path = _part(bench, index)
    if (finished := _finished(bench, part_path)) is not None:
        return finished
    part: dict[str, Any] = {"sample": sample.id, "preferences": [], "skipped": [], "refused": None}
    try:
        _make_pairs(bench, sample, _scene(bench, sample), position, part)
    except (NotPossible, DataError) as error:
        part["refused"] = [str(getattr(error, "message", error)), _person(sample, error)]
    text = json.dumps(part, ensure_ascii=False)
    bench.write_once(part_path, lambda beside: beside.write_text(text, encoding="utf-8"))
    return part


def _make_pairs(bench: Bench, sample: Sample, scene: Scene, position: float, part: dict[str, Any]) -> None:
    config = bench.config
    fps, source_digest = probe(Path(sample.video)).fps, file_digest(Path(sample.video))
    references = [_kept_reference(bench, r) for r in sample.references]
    rng = np.random.default_rng(seed_of("distort-kinds", config.seed, sample.id))
    kinds = order_of_kinds(config, scene.num_slots, bench.regenerate is not None, rng)
    failed: Counter[str] = Counter()
    number = 0
    for attempt in range(4 * config.per_video + len(kinds)):
        possible = [name for name in kinds if failed[name] < 2]
        if number == config.per_video or not possible:
            break
        name = possible[attempt % len(possible)]
        draws = np.random.default_rng(seed_of("distort-pair", config.seed, sample.id, attempt))
        try:
            made = make_pair(scene, plan_pair(name, entry_of(name), config, position, draws))
        except NotPossible as error:
            failed[name] += 1
            part["skipped"].append([name, str(error), _person(sample, error)])
            continue
        origin = _origin(sample, made, source_digest, scene.painter)
        record = _preference(bench, sample, references, made, number, fps, origin)
        part["preferences"].append(record.relative_to(bench.folder).model_dump(mode="json"))
        number += 1

"""Real faces, a real recognition network: what alignment gains, which distortions are made, and what a measure sees of them.

    pip install dlib-bin face-recognition-models
    IDGRPO_FACE_PHOTOS=photos python -m pytest -m bench tests/bench/test_faces.py -o log_cli=true

`photos` is optional: one folder a person (see `faces.py`). Few people: the tables give directions, not decimals.
"""

import logging
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pytest
import torch
from tests.bench.faces import AsItComes, FaceClip, all_clips, finder, make_clip, photographs, turned

from idgrpo.distort.config import DistortConfig
from idgrpo.distort.contract import NotPossible, Scene
from idgrpo.distort.located import Located, likeness, locate, portrait_boxes
from idgrpo.distort.mask_painter import MaskPainter
from idgrpo.distort.material import Gallery, GalleryEntry, material_of
from idgrpo.distort.pair import make_pair, plan_pair
from idgrpo.distort.registry import DISTORTIONS, entry_of
from idgrpo.people.faces import FaceFinder

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
log = logging.getLogger(__name__)
ANGLES = (-40, -25, 0, 25, 40)
KINDS = [
    name for name, entry in DISTORTIONS.items() if not entry.needs_generator and entry.family in ("identity", "control")
]
PLAIN = {"both_sides": 0, "better_side": 0, "graded": 0, "mirrored": 0, "unsteady_better": 0}
CONFIG = DistortConfig(strength={"tie_share": 0, "low": 0.6}, balance=PLAIN)


def seen_at(found: FaceFinder, photo: torch.Tensor) -> np.ndarray | None:
    """Embed the most certain face of a photo; None when none is found."""
    faces = found.find(photo[None])[0]
    return max(faces, key=lambda d: d.score).embedding if faces else None


def test_alignment_holds_on_tilted_heads():
    """Similarity of a photo to the reference of its person, turned by some degrees: cropped as it comes, and aligned."""
    lowest = {}
    for name, there in (("as it comes", FaceFinder(AsItComes())), ("aligned", finder())):
        rows = {}
        for person, photos in photographs().items():
            reference = there.embed_reference(photos[0])
            vectors = [seen_at(there, turned(photos[1], angle, 200)) for angle in ANGLES]
            rows[person] = [-1.0 if v is None else float(v @ reference) for v in vectors]
            log.warning("%-12s %-10s %s", name, person, " ".join(f"{value:5.2f}" for value in rows[person]))
        lowest[name] = min(min(row) for row in rows.values())
    assert lowest["aligned"] > lowest["as it comes"] + 0.1
    assert lowest["aligned"] > finder().levels.middle


@lru_cache
def cast(folder) -> list[tuple[FaceClip, Scene]]:
    """Locate everybody in every clip; strangers come from the others."""
    placed: list[tuple[FaceClip, Located]] = []
    entries = []
    for index, clip in enumerate(all_clips()):
        looks = [finder().embed_reference(photo) for photo in clip.references]
        located = locate(clip.pixels, looks, finder(), min_similarity=finder().levels.stranger, min_coverage=0.5)
        placed.append((clip, replace(located, portraits=portrait_boxes(clip.references, finder()))))
        for slot, person in enumerate(clip.people):
            path = folder / f"{index}-{slot}.npz"
            material_of(clip.pixels, located, slot).save(path)
            entries.append(GalleryEntry(f"{index}#{slot}", person, located.embeddings[slot], path))
    gallery = Gallery(entries, finder().levels.same_person)
    scenes = []
    for clip, located in placed:
        painter = MaskPainter(clip.pixels, located, list(clip.people), gallery)
        faces = tuple(tuple(box) for box in located.portraits.tolist())
        measure = partial(likeness, located, finder(), finder().levels)
        scenes.append((clip, Scene(clip.pixels, painter, clip.references, faces=faces, likeness=measure)))
    return scenes


def similarity(pixels: torch.Tensor, clip: FaceClip, located: Located) -> np.ndarray:
    """Give each person's mean similarity to the reference at the person's place, 0 where no face is found: [person]."""
    references = [finder().embed_reference(photo) for photo in clip.references]
    frames = list(range(0, len(pixels), 3))
    found = finder().find(pixels[frames])
    table = np.zeros((len(frames), len(references)))
    for row, faces in enumerate(found):
        for slot, reference in enumerate(references):
            box = located.boxes[slot, frames[row]]
            middle = (box[:2] + box[2:]) / 2
            near = [
                f
                for f in faces
                if np.linalg.norm((np.array(f.box[:2]) + f.box[2:]) / 2 - middle) < (box[2] - box[0]) / 2
            ]
            table[row, slot] = max((float(f.embedding @ reference) for f in near), default=0.0)
    return table.mean(0)


def test_distortions_are_made_and_lower_what_a_recognition_network_sees(tmp_path_factory):
    """Per distortion: made of suitable clips, refusals with their reasons, similarity of the person hit most before and after."""
    scenes = cast(tmp_path_factory.mktemp("cast"))
    made, lower, moved, reasons = {}, {}, {}, defaultdict(list)
    for name in KINDS:
        rows = []
        for number, (clip, scene) in enumerate(scenes):
            try:
                pair = make_pair(scene, plan_pair(name, entry_of(name), CONFIG, 0.0, np.random.default_rng(number)))
            except NotPossible as error:
                reasons[name].append(str(error))
                continue
            first, second = (pair.b, pair.a) if pair.label == "b" else (pair.a, pair.b)
            before, after = (similarity(side, clip, scene.painter.located) for side in (first, second))
            hit = int(np.abs(before - after).argmax())
            rows.append((before[hit], after[hit]))
        table = np.array(rows).reshape(-1, 2)
        made[name] = len(table) / len(scenes)
        lower[name] = float((table[:, 1] < table[:, 0]).mean()) if len(table) else float("nan")
        moved[name] = float(np.abs(table[:, 0] - table[:, 1]).max(initial=0))
        log.warning(
            "%-20s made %d of %d   similarity %.2f -> %.2f   lower in %3.0f %%   %s",
            name, len(table), len(scenes), *(table.mean(0) if len(table) else (np.nan, np.nan)), 100 * lower[name],
            "; ".join(sorted(set(reasons[name]))),
        )  # fmt: skip
    # Left out: hair and clothes (this network does not look at them), a copy of the reference (more alike, not less), and `drop`
    # (nobody here walks so far that what is behind shows).
    faces = [
        n for n in KINDS if entry_of(n).family == "identity" and n not in ("attribute", "exchange", "drop", "paste")
    ]
    assert all(made[name] >= 0.6 for name in faces), made
    assert all(lower[name] >= 0.95 for name in faces), lower
    assert all(moved[name] <= 0.03 for name in KINDS if entry_of(name).family == "control"), moved


def test_a_clip_of_other_people_gives_no_label(tmp_path_factory):
    names = list(photographs())
    clip = make_clip((names[0], names[1]), torch.full((3, 240, 416), 120, dtype=torch.uint8))
    looks = [finder().embed_reference(photographs()[name][0]) for name in names[2:4] or [names[1], names[1]]]
    if len(names) < 4:
        pytest.skip("needs four people")
    least = DistortConfig().people.least_similarity(finder().levels)
    with pytest.raises(NotPossible, match="as alike to the reference"):
        locate(clip.pixels, looks, finder(), min_similarity=least)

"""Real faces, a real recognition network: what alignment gains, how measures order clips, which distortions are made and seen.

`make bench-faces` installs what is needed and prints the tables (see `faces.py`). Few people: directions, not decimals.
"""

import hashlib
import logging
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import pytest
import torch
from tests.bench.faces import (
    AsItComes,
    FaceClip,
    all_cases,
    finder,
    kinds_of_clips,
    make_clip,
    photographs,
    take_of,
    turned,
)
from tests.distort.test_artefacts import OneClip
from torch.nn.functional import interpolate

from idgrpo.distort.config import DistortConfig
from idgrpo.distort.contract import NotPossible, Scene
from idgrpo.distort.located import Located, likeness, locate, portrait_boxes
from idgrpo.distort.mask_painter import MaskPainter
from idgrpo.distort.material import Gallery, GalleryEntry, material_of
from idgrpo.distort.pair import Made, make_pair, plan_pair
from idgrpo.distort.registry import DISTORTIONS, entry_of
from idgrpo.evaluate.config import EvaluateConfig
from idgrpo.evaluate.copies import photo_prints
from idgrpo.evaluate.measure import load_measures
from idgrpo.evaluate.observe import observe
from idgrpo.evaluate.subject import Subject
from idgrpo.people.faces import FaceFinder

pytestmark = [pytest.mark.bench, pytest.mark.timeout(10800)]
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


MEASURED = (
    "identity",
    "worst",
    "separation",
    "margin",
    "confusion",
    "swap_rate",
    "coverage",
    "face_detail",
    "drift",
    "copied",
)
WRONG = ("strangers", "one stranger", "swapped half-way", "one missing", "duplicated", "blended")


@lru_cache
def prints_of(name: str) -> np.ndarray:
    return photo_prints(photographs()[name][0], finder())


def measured(pixels: torch.Tensor, people: tuple[str, str], number: int) -> dict[str, float | None]:
    """Measure a clip as `idgrpo eval` does; the second photo of each person is the one that clips are made of."""
    config = EvaluateConfig()
    references = np.stack([finder().embed_reference(photographs()[name][0]) for name in people])
    second = np.stack([finder().embed_reference(take_of(name, number)) for name in people])
    seen = observe(pixels, finder(), config.finding)
    prints = tuple(prints_of(name) for name in people)
    subject = Subject(seen, references, second, levels=finder().levels, prints=prints)
    return {name: function(subject) for name, function in load_measures(list(MEASURED)).items()}


def test_measures_order_right_and_wrong_clips_in_every_case():
    """Eleven kinds of clips of each case. In every case: wrong people lie below the right ones, only exchanged people are swaps, only
    a change half-way is a large drift, and only the frozen reference is a copy."""
    table: dict[str, list[dict]] = defaultdict(list)
    for people, ground, number in all_cases():
        for kind, pixels in kinds_of_clips(people, ground, number).items():
            table[kind].append(measured(pixels, people, number))
    log.warning("%-26s %s   (%d cases)", "", " ".join(f"{name:>11}" for name in MEASURED), len(table["good"]))
    for kind, rows in table.items():
        means = [np.mean([np.nan if row[name] is None else row[name] for row in rows]) for name in MEASURED]
        log.warning("%-26s %s", kind, " ".join(f"{mean:11.3f}" for mean in means))
    for kind, rows in table.items():
        share = [row["face_detail"] / good["face_detail"] for row, good in zip(rows, table["good"], strict=True)]
        drifts = [row["drift"] for row in rows]
        log.warning(
            "%-26s detail of the good clip's %.2f to %.2f, drift %+.3f to %+.3f",
            kind, min(share), max(share), min(drifts), max(drifts),
        )  # fmt: skip
    found = {
        kind: {name: np.array([row[name] for row in rows], float) for name in MEASURED} for kind, rows in table.items()
    }
    good = found["good"]
    for kind in WRONG:
        for name in ("identity", "worst"):
            assert (found[kind][name] < good[name] - 0.1).all(), (kind, name, found[kind][name], good[name])
    for kind in ("strangers", "one stranger", "swapped half-way", "duplicated", "blended"):
        assert (found[kind]["margin"] < good["margin"] - 0.1).all(), (kind, found[kind]["margin"], good["margin"])
    for kind in ("swapped half-way", "duplicated", "blended"):
        assert (found[kind]["swap_rate"] > good["swap_rate"] + 0.1).all(), (kind, found[kind]["swap_rate"])
    for kind in ("good", "strangers", "one stranger", "one missing", "reference frozen", "filmed from the reference"):
        assert (found[kind]["swap_rate"] <= 0.05).all(), (kind, found[kind]["swap_rate"])
    for kind in found:
        large = found[kind]["drift"] < -0.2
        assert large.all() if kind == "swapped half-way" else not large.any(), (kind, found[kind]["drift"])
        assert (found[kind]["drift"] < 0.2).all(), (kind, found[kind]["drift"])
        if kind != "filmed from the reference":  # as near to the reference as one likes
            assert (found[kind]["copied"] == float(kind == "reference frozen")).all(), (kind, found[kind]["copied"])
    for kind in ("dark, noise", "motion blur 13 px"):  # told from wrong people by what can be recognised at all
        assert (found[kind]["face_detail"] < 0.5 * good["face_detail"]).all(), kind
    for kind in WRONG:
        assert (found[kind]["face_detail"] > 0.5 * good["face_detail"]).all(), kind


@lru_cache
def cast(folder, far: bool = False) -> list[tuple[FaceClip, Scene]]:
    """Locate everybody in every clip; strangers come from the others."""
    placed: list[tuple[FaceClip, Located]] = []
    entries = []
    for index, case in enumerate(all_cases()):
        clip = make_clip(*case, far=far)
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


SEEN: dict[tuple[str, int], np.ndarray] = {}


def similarity(pixels: torch.Tensor, clip: FaceClip, located: Located) -> np.ndarray:
    """Give each person's mean similarity to the reference at the person's place, 0 where no face is found: [person]."""
    key = (hashlib.sha256(pixels.numpy().tobytes()).hexdigest(), id(clip))
    if key not in SEEN:
        SEEN[key] = _similarity(pixels, [finder().embed_reference(photo) for photo in clip.references], located)
    return SEEN[key]


def _similarity(pixels: torch.Tensor, references: list[np.ndarray], located: Located, step: int = 3) -> np.ndarray:
    frames = list(range(0, len(pixels), step))
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
    near, far = cast(tmp_path_factory.mktemp("cast")), cast(tmp_path_factory.mktemp("far"), far=True)
    made, lower, moved, reasons = {}, {}, {}, defaultdict(list)
    for name in KINDS:
        rows = []
        scenes = far if name == "drop" else near  # only there what is behind somebody ever shows
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
    faces = [n for n in KINDS if entry_of(n).family == "identity" and n != "paste"]  # a copy is more alike, not less
    assert all(made[name] >= 0.6 for name in faces), made
    assert all(lower[name] >= 0.95 for name in faces), lower
    assert all(moved[name] <= 0.03 for name in KINDS if entry_of(name).family == "control"), moved


SMALL, EPOCHS, DRAWS, TRACES = (72, 124), 12, 1, (14, 28, 56)  # traces in grey levels


@dataclass(frozen=True)
class Drawn:
    """A pair of the default mix: its kind, who is in it, winner and loser uint8 [2, frame, 3, 72, 124], where the first head is there
    (float [frame, 4]), is it ordered rightly by references."""

    kind: str
    people: tuple[str, str]
    small: torch.Tensor
    head: np.ndarray
    ordered: bool | None

    def with_trace(self, levels: int) -> "Drawn":
        """Put a planted trace on the loser, and nothing else: the box of a head is brighter."""
        marked = self.small[1].clone()
        for frame, box in zip(marked, self.head.round().astype(int), strict=True):
            left, top, right, bottom = box.clip(0)
            part = frame[:, top:bottom, left:right]
            frame[:, top:bottom, left:right] = (part.short() + levels).clamp(0, 255).byte()
        return replace(self, small=torch.stack([self.small[1], marked]))


def shrunk(*sides: torch.Tensor) -> torch.Tensor:
    return torch.stack([interpolate(side.float(), SMALL, mode="area") for side in sides]).byte()


def drawn_pairs(folder) -> list[Drawn]:
    """Make pairs of the default mix, `DRAWS` of a kind and case; the network with references is asked about the first."""
    config = DistortConfig(strength={"tie_share": 0})
    pairs = []
    for number, (clip, scene) in enumerate(cast(folder)):
        for name in [name for name in config.weights() if entry_of(name).family == "identity"]:
            for draw in range(DRAWS):
                plan = plan_pair(name, entry_of(name), config, 0.0, np.random.default_rng([number, draw]))
                try:
                    made = make_pair(scene, plan)
                except NotPossible:
                    continue
                sides = [made.a, made.b] if made.label == "a" else [made.b, made.a]
                ordered = draw == 0 and _ordered(made, clip, scene, sides)
                head = scene.painter.located.boxes[0] * (SMALL[0] / clip.pixels.shape[-2])
                pairs.append(Drawn(made.name, clip.people, shrunk(*sides), head, ordered if draw == 0 else None))
    return pairs


def _ordered(made: Made, clip: FaceClip, scene: Scene, sides: list[torch.Tensor]) -> bool:
    asked_for = list(clip.references)
    if made.mirrored is not None:
        slot, asked = made.mirrored
        asked_for[slot] = asked.portraits[0]
    vectors = [finder().embed_reference(photo) for photo in asked_for]
    right, wrong = (_similarity(side, vectors, scene.painter.located, 5).mean() for side in sides)
    return bool(right > wrong)


def told_by_one_clip(pairs: list[Drawn]) -> list[float]:
    """Ask a network that sees one clip which has won; each case is judged by one that was trained on clips of other people."""
    said = {}
    for people in sorted({pair.people for pair in pairs}):
        torch.manual_seed(0)
        train = torch.cat([pair.small for pair in pairs if not set(pair.people) & set(people)])
        labels = torch.tensor([1.0, 0.0]).repeat(len(train) // 2)
        model = OneClip()
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(train)).split(32):
                seen = train[batch] if torch.rand(()) < 0.5 else train[batch].flip(-1)
                loss = torch.nn.functional.binary_cross_entropy_with_logits(model(seen), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            for number, pair in enumerate(pairs):
                if pair.people == people:
                    scores = model(pair.small)
                    said[number] = float(scores[0] > scores[1])
    return [said[number] for number in range(len(pairs))]


def test_one_clip_does_not_give_a_pair_away_and_references_do(tmp_path_factory):
    """Winner or loser, seen from one clip by a network trained on other people; and seen with references by the recognition network.

    The same network is asked for planted traces on the same clips, which tells what it is able to see.
    """
    if len(photographs()) < 5:
        pytest.skip("needs five people: pairs of three to learn from while two are judged")
    folder = tmp_path_factory.mktemp("pairs")
    pairs = drawn_pairs(folder)
    alone = told_by_one_clip(pairs)
    results = defaultdict(list)
    for pair, right in zip(pairs, alone, strict=True):
        results[pair.kind].append((right, np.nan if pair.ordered is None else float(pair.ordered)))
    for kind, rows in sorted(results.items()):
        log.warning("%-16s %3d pairs   one clip %.3f   with references %.3f", kind, len(rows), *np.nanmean(rows, 0))
    with_references = [pair.ordered for pair in pairs if pair.ordered is not None]
    log.warning(
        "all: one clip %.3f of %d pairs, with references %.3f of %d",
        np.mean(alone), len(pairs), np.mean(with_references), len(with_references),
    )  # fmt: skip
    found = {levels: np.mean(told_by_one_clip([pair.with_trace(levels) for pair in pairs])) for levels in TRACES}
    for levels, share in found.items():
        log.warning("a planted trace of %d grey levels: found in %.3f", levels, share)
    assert np.mean(alone) <= 0.65 and np.mean(with_references) >= 0.90
    assert found[TRACES[-1]] >= 0.8


def test_a_clip_of_other_people_gives_no_label(tmp_path_factory):
    names = list(photographs())
    clip = make_clip((names[0], names[1]), torch.full((3, 240, 416), 120, dtype=torch.uint8))
    looks = [finder().embed_reference(photographs()[name][0]) for name in names[2:4] or [names[1], names[1]]]
    if len(names) < 4:
        pytest.skip("needs four people")
    least = DistortConfig().people.least_similarity(finder().levels)
    with pytest.raises(NotPossible, match="as alike to the reference"):
        locate(clip.pixels, looks, finder(), min_similarity=least)

"""Recorded clips: faces aligned and coloured, the whole person left alone, refusals that name clip, person and reason."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from idgrpo.distort.config import BalanceConfig, DistortConfig, PeopleConfig
from idgrpo.distort.contract import NotPossible, Scene, move, own_weights
from idgrpo.distort.controls import background
from idgrpo.distort.cover import cropped, paste
from idgrpo.distort.identity import drop, swap
from idgrpo.distort.job import Bench
from idgrpo.distort.located import Located, likeness, locate, portrait_boxes
from idgrpo.distort.mask_painter import MaskPainter
from idgrpo.distort.material import fitted, part_mask, placed, points_in_square, pose_at
from idgrpo.distort.pair import DRAWS, MOST_MOVED, identity_lost, make_pair, plan_pair, visible_change
from idgrpo.distort.registry import entry_of
from idgrpo.distort.stage import distort
from idgrpo.errors import UsageError
from idgrpo.people.align import TEMPLATE
from idgrpo.people.boxes import center
from idgrpo.people.contract import Levels
from idgrpo.people.load import load_finder
from idgrpo.people.painter import Identity, Script

COLORS = {"red": (200, 60, 60), "blue": (60, 80, 200), "green": (70, 170, 80)}
LEVELS = Levels(0.6, 0.4)
PLAIN_CONFIG = DistortConfig(
    strength={"low": 0.8, "tie_share": 0},
    balance=BalanceConfig(both_sides=0, better_side=0, graded=0, mirrored=0, unsteady_better=0),
)


def portrait(name: str, size: int = 4) -> torch.Tensor:
    return torch.tensor(COLORS[name], dtype=torch.uint8)[:, None, None].expand(3, size, size)


@pytest.fixture
def located(disc_clip, disc_finder) -> Located:
    return locate(disc_clip, [disc_finder.embed_reference(portrait(n)) for n in ("red", "blue")], disc_finder)


def scene_of(clip: torch.Tensor, located: Located, **known) -> Scene:
    return Scene(clip, MaskPainter(clip, located, ["red", "blue"]), [portrait("red"), portrait("blue")], **known)


def with_landmarks(located: Located, stretch: tuple[float, float]) -> Located:
    """Give slot 0 the standard landmarks in its box, slot 1 stretched ones."""
    marks = np.full((2, located.boxes.shape[1], 5, 2), np.nan, np.float32)
    for slot, shape in enumerate(((1.0, 1.0), stretch)):
        for frame, box in enumerate(located.boxes[slot]):
            marks[slot, frame] = center(box) + (TEMPLATE - 56) / 56 * shape * (box[2] - box[0]) / 2
    return Located(**{**vars(located), "landmarks": marks})


def test_eyes_nose_and_mouth_of_a_donor_are_laid_on_those_of_the_person(located):
    located = with_landmarks(located, (0.9, 1.15))
    own, donor = (points_in_square(located, slot, 4) for slot in (0, 1))
    warp = fitted(own, donor)
    assert own @ warp[:, :2].T + warp[:, 2] == pytest.approx(donor, abs=1e-5)
    # A mark at a landmark of the donor's crop is seen at the landmark of the person.
    size = 64
    crop = torch.zeros(2, size, size)
    crop[1] = 1
    x, y = ((donor[2] + 1) / 2 * size).round().astype(int)
    crop[0, y - 2 : y + 2, x - 2 : x + 2] = 1
    patch, (rows, columns) = placed(crop, pose_at(located, 0, 4), 96, 144, warp)
    weight = patch[0] / patch[0].sum()
    seen = (
        float((weight.sum(0) * (torch.arange(columns.start, columns.stop) + 0.5)).sum()),
        float((weight.sum(1) * (torch.arange(rows.start, rows.stop) + 0.5)).sum()),
    )
    assert seen == pytest.approx(tuple(located.landmarks[0, 4, 2]), abs=0.7)


def test_landmarks_that_cannot_be_right_are_not_followed(located):
    own = points_in_square(with_landmarks(located, (1.0, 1.0)), 0, 4)
    assert fitted(own, np.full((5, 2), np.nan)) is None
    assert fitted(own, own * 3) is None and fitted(own, own + 2) is None and fitted(own * 0, own) is None
    assert points_in_square(located, 0, 4) == pytest.approx(np.full((5, 2), np.nan), nan_ok=True)


def test_landmarks_and_portraits_survive_the_disk(located, tmp_path):
    full = Located(**{**vars(with_landmarks(located, (1, 1))), "portraits": np.full((2, 4), np.nan, np.float32)})
    full.save(tmp_path / "p.npz")
    again = Located.load(tmp_path / "p.npz")
    assert np.array_equal(again.landmarks, full.landmarks) and np.isnan(again.portraits).all()


def test_a_swapped_face_takes_the_colour_around_it_at_its_rim(disc_clip, located):
    """The step from outside to inside of the mask is smaller than that between the two faces, which stay different inside."""
    scene = scene_of(disc_clip, located)
    worse = swap(scene, 1.0, np.random.default_rng(0)).worse
    mask = scene.regions[5, 0]
    rim, middle = (mask > 0.02) & (mask < 0.3), mask > 0.97
    changed = (worse[5].float() - disc_clip[5].float()).abs().mean(0)
    assert float(changed[rim].mean()) < 8 < 25 < float(changed[middle].mean())


def test_the_background_ends_where_the_person_does(disc_clip, located):
    """Boxes hold faces: below them are bodies, which a control must leave alone, also where the face was not found."""
    hidden = Located(**vars(located))
    hidden.boxes[0, 10:] = np.nan
    scene = scene_of(disc_clip, hidden)
    changed = (background(scene, 1.0, np.random.default_rng(0)) != disc_clip).any(1)
    assert changed.any()
    for slot in (0, 1):
        for frame in range(16):
            x, y = center(hidden.boxes[slot, min(frame, 9) if slot == 0 else frame]).round().astype(int)
            assert not changed[frame, y - 16 : y + 40, x - 16 : x + 16].any(), (slot, frame)


def test_a_pasted_portrait_is_the_face_alone(disc_clip, located):
    photo = torch.zeros(3, 200, 100, dtype=torch.uint8)
    photo[:, 20:60, 30:70] = torch.tensor([200, 60, 60], dtype=torch.uint8)[:, None, None]
    faces = ((30.0, 20.0, 70.0, 60.0),) * 2
    assert cropped(photo, faces[0]).shape == (3, 60, 60) and cropped(photo, (-9, -9, 30, 30)).shape == (3, 40, 40)
    painter = MaskPainter(disc_clip, located, ["red", "blue"])
    shown = {}
    for known in ((), faces):
        scene = Scene(disc_clip, painter, [photo, photo], faces=known)
        outcome = paste(scene, 1.0, np.random.default_rng(0))
        changed = (outcome.worse != disc_clip).any(1)[0]
        pasted = outcome.worse[0][:, changed].float()
        shown[bool(known)] = float(((pasted[0] > 150) & (pasted[1] < 100)).float().mean())
    assert shown[True] > 0.3 > 0.2 > shown[False]


def test_who_walks_is_dropped_where_the_other_stands_still(disc_clip, located):
    from tests.distort.conftest import face_clip

    clip = face_clip(("red",), size=(96, 260))
    clip[:, :, 52:80, 220:248] = disc_clip[:1, :, 52:80, 106:134]
    boxes = located.boxes.copy()
    boxes[1] = boxes[1, :1] + (114, 0, 114, 0)
    scene = scene_of(clip, Located(**{**vars(located), "boxes": boxes}))
    for seed in range(4):
        outcome = drop(scene, 0.4, np.random.default_rng(seed))
        assert outcome.script.touched().any(0).tolist() == [True, False]


def test_a_recoloured_part_outside_of_the_face_shows(disc_clip, located):
    scene = scene_of(disc_clip, located)
    weights = np.zeros((16, 2, 3), np.float32)
    weights[:, 0, 2] = weights[:, 1, 1] = 1
    script = Script(weights, (Identity(0), Identity(1), Identity(0, 1, ("clothes",))))
    worse = disc_clip.clone()
    for frame in (0, 1, 2, 3, 12, 13, 14, 15):  # while nobody else is near
        x, y = center(located.boxes[0, frame]).round().astype(int)
        worse[frame, :, y + 22 : y + 44, max(0, x - 18) : x + 18] = 0
    assert visible_change(scene, disc_clip, worse) < 0.05 < 0.2 < visible_change(scene, disc_clip, worse, script)


def test_a_change_of_identity_with_few_grey_levels_shows_to_the_finder(disc_clip, located):
    """A late swap of two people of one complexion was refused: 0.035 of the face changes."""
    lost = {"now": 0.0}
    asked = []

    def measure(clip: torch.Tensor, frames: list[int]) -> np.ndarray:
        asked.append(clip)  # the better side, then the worse
        return np.full((len(frames), 2), 1.0 if len(asked) % 2 else 1.0 - lost["now"])

    half = disc_clip.clone()
    half[8:, 0] += 1
    assert identity_lost(scene_of(disc_clip, located), disc_clip, half) == 0
    scene = scene_of(disc_clip, located, likeness=measure)
    for lost["now"], seen in ((0.0, 0.0), (0.6, 0.3)):
        assert identity_lost(scene, disc_clip, half) == pytest.approx(seen)
    faint = DistortConfig(
        strength={"low": 0.06, "high": 0.08, "tie_share": 0},
        balance=BalanceConfig(both_sides=0, better_side=0, graded=0, mirrored=0, unsteady_better=0),
    )
    plan = plan_pair("blend", entry_of("blend"), faint, 0.0, np.random.default_rng(0))
    lost["now"] = 0.0
    with pytest.raises(NotPossible, match="hardly shows"):
        make_pair(scene, plan)
    lost["now"] = 0.6
    assert make_pair(scene, plan).label in ("a", "b")


def test_a_change_that_brings_somebody_nearer_to_the_reference_is_no_distortion(disc_clip, located):
    """Other hair is visible and may raise the similarity to the photo: the label would be wrong. Another draw may do."""
    draws = []

    def measure(clip: torch.Tensor, frames: list[int]) -> np.ndarray:
        draws.append(clip)  # the better side, then the worse
        change = 0.2 if (len(draws) - 1) // 2 < nearer else -0.2
        return np.full((len(frames), 2), 0.5 + change * (len(draws) % 2 == 0))

    scene = scene_of(disc_clip, located, likeness=measure)
    plan = plan_pair("exchange", entry_of("exchange"), PLAIN_CONFIG, 0.0, np.random.default_rng(0))
    nearer = DRAWS
    with pytest.raises(NotPossible, match="nobody less alike"):
        make_pair(scene, plan)
    assert len(draws) == 2 * DRAWS
    draws.clear()
    nearer = 1
    made = make_pair(scene, plan)
    assert len(draws) == 4 and made.plan.seed != plan.seed


def test_a_control_that_changes_somebody_is_no_control(disc_clip, located):
    """One re-blended clip of ten lost 0.036 of its likeness to the reference: a tie that is none."""
    moved = {"by": MOST_MOVED / 2}
    asked = []

    def measure(clip: torch.Tensor, frames: list[int]) -> np.ndarray:
        asked.append(clip)  # one side, then the other
        return np.full((len(frames), 2), 0.5 + (moved["by"] if len(asked) % 2 else 0))

    def seen() -> float:
        """The scene's own arithmetic: of frames that differ, times their share."""
        return abs(identity_lost(scene, made.a, made.b))

    scene = scene_of(disc_clip, located, likeness=measure)
    plan = plan_pair("control_background", entry_of("control_background"), PLAIN_CONFIG, 0.0, np.random.default_rng(0))
    made = make_pair(scene, plan)
    assert made.label == "tie" and 0 < seen() < MOST_MOVED
    for moved["by"] in (2 * MOST_MOVED, -2 * MOST_MOVED):
        asked.clear()
        with pytest.raises(NotPossible, match="no control"):
            make_pair(scene, plan)
        assert len(asked) == 2 * DRAWS


def test_eyes_are_cut_out_of_the_other_face_and_nothing_else_changes(disc_clip, located):
    scene = scene_of(disc_clip, located)
    weights, identities = own_weights(scene, Identity(0, 1, ("eyes",)))
    move(weights, np.arange(scene.num_frames), 0, 2, 1.0)
    script = Script(weights, identities)
    worse, better = scene.painter.paint(script), scene.painter.reblend(script)
    changed = (worse != better).any(1)
    inside = torch.zeros_like(changed)
    for frame in range(scene.num_frames):
        region, where = part_mask(located, 0, frame, "eyes", *disc_clip.shape[-2:])
        inside[frame][where] = region > 0
    assert changed.any((1, 2)).all() and not (changed & ~inside).any()
    assert not ((better != disc_clip).any(1) & ~inside).any()


def test_likeness_is_measured_at_each_place(disc_clip, located, disc_finder):
    swapped = swap(scene_of(disc_clip, located), 1.0, np.random.default_rng(0)).worse
    frames = [0, 5, 10]
    assert likeness(located, disc_finder, LEVELS, disc_clip, frames) == pytest.approx(np.ones((3, 2)))
    assert likeness(located, disc_finder, LEVELS, swapped, frames).max() < 0.5
    strangers = Located(**{**vars(located), "references": located.embeddings[::-1].copy()})
    assert likeness(strangers, disc_finder, LEVELS, disc_clip, frames).max() < 0.5  # held against the references
    hidden = Located(**{**vars(located), "seen": np.zeros_like(located.seen)})
    assert np.isnan(likeness(hidden, disc_finder, LEVELS, disc_clip, frames)).all()


def test_faces_of_references_are_found_or_unknown(disc_clip, disc_finder):
    boxes = portrait_boxes([disc_clip[0], torch.zeros(3, 32, 32, dtype=torch.uint8)], disc_finder)
    assert boxes[0, 2] - boxes[0, 0] == pytest.approx(24) and np.isnan(boxes[1]).all()


@pytest.mark.parametrize(("levels", "least", "most"), [(None, -1.0, 0.6), (Levels(0.95, 0.9), 0.9, 0.95)])
def test_limits_follow_the_levels_of_the_finder_unless_set(levels, least, most):
    people = PeopleConfig()
    assert (people.least_similarity(levels), people.most_likeness(levels)) == (least, most)
    own = PeopleConfig(min_similarity=0.1, max_likeness=0.2)
    assert (own.least_similarity(levels), own.most_likeness(levels)) == (0.1, 0.2)


def leveled_finder():
    from tests.distort.conftest import DiscFinder

    finder = DiscFinder()
    finder.levels = Levels(0.9, 0.5)
    return finder


def test_the_finders_own_settings_reach_it_and_unknown_ones_are_refused(disc_samples, tmp_path):
    pytest.importorskip("facenet_pytorch")
    made = partial(load_finder, "facenet", embedder=False)
    config = DistortConfig(people={"options": {"min_face_px": 33, "thresholds": [0.5, 0.6, 0.6]}})
    finder = Bench(tmp_path, config, made).the_finder()
    assert (finder.min_face_px, finder.thresholds) == (33, [0.5, 0.6, 0.6])
    wrong = DistortConfig(people={"options": {"min_face": 33}})
    with pytest.raises(UsageError, match="no option 'min_face'; did you mean 'min_face_px'"):
        distort(disc_samples, wrong, tmp_path, finder=made)


def test_a_clip_of_other_people_gives_no_label_and_the_refusal_says_who(disc_samples, tmp_path):
    """Sample 0 shows red and blue; its second reference is replaced by green's photo."""
    first, second, third = disc_samples
    wrong = first.model_copy(update={"references": [first.references[0], second.references[0]]})
    config = DistortConfig(per_video=2, mix={"drop": 1, "swap_late": 1})
    summary = distort([wrong, second, third], config, tmp_path, finder=leveled_finder)
    assert summary.num_used == 2
    rows = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    (whole,) = [row for row in rows if row["sample"] == wrong.id]
    assert whole["distortion"] is None and whole["person"] == second.references[0].person and whole["count"] == 1
    assert whole["reason"] == "nobody in the clip is as alike to the reference as 0.50"
    counted = sum(row["count"] for row in rows if row["distortion"])
    assert counted == sum(summary.skipped.values())
    # Without levels nothing is refused for that: the scale of the similarity is not known.
    from tests.distort.conftest import make_disc_finder

    assert distort([wrong, second, third], config, tmp_path / "again", finder=make_disc_finder).num_used == 3

import numpy as np
import pytest
import torch

from idgrpo.distort.contract import NotPossible, Scene
from idgrpo.distort.identity import drop, merge, replace, swap_late
from idgrpo.distort.located import Located, locate, smoothed
from idgrpo.distort.mask_painter import MaskPainter
from idgrpo.distort.material import Gallery, GalleryEntry, Material, material_of
from idgrpo.people.boxes import center

COLORS = {"red": (200, 60, 60), "blue": (60, 80, 200), "green": (70, 170, 80)}


@pytest.fixture
def located(disc_clip, disc_finder) -> Located:
    references = [
        disc_finder.embed_reference(torch.tensor(COLORS[n])[:, None, None].expand(3, 4, 4)) for n in ("red", "blue")
    ]
    return locate(disc_clip, references, disc_finder)


@pytest.fixture
def scene(disc_clip, located, disc_finder, tmp_path) -> Scene:
    """Give the two discs, with a green stranger at hand."""
    other = disc_clip[:, [1, 0, 2]].contiguous()
    look = np.array(COLORS["green"], np.float64) - 110
    look = (look / np.linalg.norm(look)).astype(np.float32)
    material_of(other, located, 0).save(tmp_path / "green.npz")
    gallery = Gallery([GalleryEntry("other#0", "green", look, tmp_path / "green.npz")])
    painter = MaskPainter(disc_clip, located, ["red", "blue"], gallery)
    return Scene(disc_clip, painter, [disc_clip[0], disc_clip[0]])


def color_at(clip: torch.Tensor, located: Located, slot: int, frame: int) -> np.ndarray:
    x, y = center(located.boxes[slot, frame]).round().astype(int)
    return clip[frame, :, y + 3 : y + 6, x - 2 : x + 3].float().mean((1, 2)).numpy()


def nearest(color: np.ndarray) -> str:
    return min(COLORS, key=lambda name: float(np.abs(np.array(COLORS[name]) - color).sum()))


def test_people_are_located_and_matched(located):
    assert located.num_slots == 2 and located.coverage().min() == 1.0
    assert located.similarity.min() > 0.95
    # Slot 0 (red) walks right, slot 1 (blue) left.
    assert center(located.boxes[0, -1])[0] > center(located.boxes[0, 0])[0] + 60
    assert center(located.boxes[1, -1])[0] < center(located.boxes[1, 0])[0] - 60


def test_located_survives_the_disk(located, tmp_path):
    located.save(tmp_path / "people.npz")
    again = Located.load(tmp_path / "people.npz")
    assert np.array_equal(again.boxes, located.boxes) and again.covers == "face" and again.masks is None


def test_a_swap_shows_the_other_face_from_some_frame_on(scene, located):
    outcome = swap_late(scene, 1.0, np.random.default_rng(0))
    swapped = [t for t in range(16) if outcome.script.touched()[t].any()]
    assert len(swapped) == 8
    for frame in range(16):
        seen = [nearest(color_at(outcome.worse, located, slot, frame)) for slot in (0, 1)]
        assert seen == (["blue", "red"] if frame in swapped else ["red", "blue"]), frame


def test_a_stranger_replaces_one_and_the_other_stays(scene, located):
    outcome = replace(scene, 1.0, np.random.default_rng(0))
    slot, stranger = outcome.stranger
    assert stranger == "other#0"
    own = ["red", "blue"]
    own[slot] = "green"
    for frame in range(16):
        assert [nearest(color_at(outcome.worse, located, s, frame)) for s in (0, 1)] == own


def test_the_better_side_is_blended_the_same_and_stays_who_it_is(scene, located):
    outcome = swap_late(scene, 1.0, np.random.default_rng(0))
    touched = outcome.script.touched().any(1)
    changed = (outcome.better != scene.clip).flatten(1).any(1).numpy()
    assert np.array_equal(changed, touched)
    assert all(
        nearest(color_at(outcome.better, located, s, t)) == ("red", "blue")[s] for s in (0, 1) for t in range(16)
    )

    # As much sharpness is lost on the better side as on the worse.
    def detail(clip):
        return float((clip[..., 1:].float() - clip[..., :-1].float()).abs().mean((1, 2, 3))[touched].mean())

    assert detail(outcome.better) == pytest.approx(detail(outcome.worse), rel=0.15)


def test_merged_people_wear_one_face_or_meet_half_way(scene, located):
    """Of the two ways one gives both the same face; in the other each keeps the own face and half of its colours."""
    same = {}
    for seed in range(6):
        outcome = merge(scene, 1.0, np.random.default_rng(seed))
        weights = outcome.script.weights[0].sum(1)
        assert weights == pytest.approx([1, 1])
        seen = [[nearest(color_at(outcome.worse, located, slot, t)) for slot in (0, 1)] for t in range(16)]
        same[seed] = all(left == right for left, right in seen)
        assert same[seed] == (outcome.script.weights.shape[-1] == 3)
        if not same[seed]:
            assert outcome.script.weights[0, 0].max() == 0.5
        assert [nearest(color_at(outcome.better, located, slot, 3)) for slot in (0, 1)] == ["red", "blue"]
    assert set(same.values()) == {True, False}


def test_dropping_shows_the_background(scene, located):
    outcome = drop(scene, 0.5, np.random.default_rng(1))
    slot = int(np.flatnonzero(outcome.script.touched().any(0))[0])
    gone = np.flatnonzero(outcome.script.touched()[:, slot])
    assert len(gone) == 8
    plate = scene.clip.float().median(0).values
    for frame in gone:
        x, y = center(located.boxes[slot, frame]).round().astype(int)
        patch = outcome.worse[frame, :, y - 4 : y + 5, x - 4 : x + 5].float()
        assert float((patch - plate[:, y - 4 : y + 5, x - 4 : x + 5]).abs().mean()) < 12


def test_dropping_somebody_who_never_moves_is_refused(disc_clip, located):
    still = Located(
        np.repeat(located.boxes[:, :1], 16, axis=1),
        located.seen,
        located.angles,
        located.embeddings,
        located.similarity,
    )
    clip = disc_clip[:1].repeat(16, 1, 1, 1)
    scene = Scene(clip, MaskPainter(clip, still, ["red", "blue"]), [clip[0], clip[0]])
    with pytest.raises(NotPossible, match="behind the person"):
        drop(scene, 1.0, np.random.default_rng(0))


def test_a_moving_background_is_refused(disc_clip, located):
    drift = torch.stack([torch.roll(frame, 9 * t, -1) for t, frame in enumerate(disc_clip)])
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 255, disc_clip.shape, dtype=np.uint8))
    for clip in (noise, drift // 2 + noise // 2):
        scene = Scene(clip, MaskPainter(clip, located, ["red", "blue"]), [clip[0], clip[0]])
        with pytest.raises(NotPossible, match="background"):
            drop(scene, 0.5, np.random.default_rng(1))


def test_without_a_gallery_there_is_no_stranger(disc_clip, located):
    scene = Scene(disc_clip, MaskPainter(disc_clip, located, ["red", "blue"]), [disc_clip[0]] * 2)
    with pytest.raises(NotPossible, match="no stranger"):
        replace(scene, 1.0, np.random.default_rng(0))


def test_look_alikes_are_chosen_by_embedding(tmp_path):
    looks = {"a": (1.0, 0.0), "b": (0.8, 0.6), "c": (0.0, 1.0), "d": (-1.0, 0.0)}
    gallery = Gallery([GalleryEntry(k, f"p-{k}", np.array(v, np.float32), tmp_path / k) for k, v in looks.items()])
    me = np.array((1.0, 0.1), np.float32)
    assert {gallery.choose(["p-a"], me, 1.0, draw) for draw in range(8)} == {"b"}
    assert {gallery.choose(["p-a"], me, 0.0, draw) for draw in range(8)} == {"b", "c", "d"}
    assert gallery.choose(["p-a", "p-b", "p-c", "p-d"], me, 0.0, 0) is None


def test_the_same_person_under_another_name_is_no_stranger(tmp_path):
    looks = {"again": (0.98, 0.2), "alike": (0.6, 0.8), "other": (0.0, 1.0)}
    entries = [GalleryEntry(k, f"p-{k}", np.array(v, np.float32), tmp_path / k) for k, v in looks.items()]
    me = np.array((1.0, 0.0), np.float32)
    assert Gallery(entries).choose(["me"], me, 1.0, 0) == "again"
    assert Gallery(entries, max_likeness=0.6).choose(["me"], me, 1.0, 0) == "alike"
    assert {Gallery(entries, max_likeness=0.6).choose(["me"], me, 0.0, draw) for draw in range(6)} == {"alike", "other"}
    assert Gallery(entries[:1], max_likeness=0.6).choose(["me"], me, 0.0, 0) is None


def test_material_survives_the_disk(disc_clip, located, tmp_path):
    material = material_of(disc_clip, located, 0, max_crops=5)
    material.save(tmp_path / "m.npz")
    again = Material.load(tmp_path / "m.npz")
    assert torch.equal(again.crops, material.crops) and len(material.crops) == 5
    assert (again.masks - material.masks).abs().max() < 0.01
    assert set(again.colors) == {"hair", "skin", "clothes", "eyes", "mouth"}


def test_smoothing_keeps_straight_lines_and_gaps():
    line = np.arange(10.0)[:, None]
    line[4] = np.nan
    result = smoothed(line)
    assert np.isnan(result[4]).all()
    assert result[[0, 1, 8, 9], 0] == pytest.approx([0, 1, 8, 9])

"""Counter-examples with known answers: our measures order them rightly, the field's are shown where they fail."""

import numpy as np
import pytest
import torch
from tests.evaluate.conftest import LEFT, NUM_FRAMES, RIGHT, SIZE_PX, A, B, mixed, person

from idgrpo.evaluate.measure import load_measures
from idgrpo.people.contract import Levels

MEASURES = load_measures()


def value(subject, name):
    return MEASURES[name](subject)


@pytest.mark.parametrize(
    ("case", "name", "expected"),
    [
        ("faithful", "identity", 1.0),
        ("faithful", "worst", 1.0),
        ("faithful", "coverage", 1.0),
        ("faithful", "count_accuracy", 1.0),
        ("faithful", "swap_rate", 0.0),
        ("faithful", "margin", 1.0),
        ("faithful", "confusion", 0.0),
        ("faithful", "drift", 0.0),
        ("faithful", "wrong_reference", 0.0),
        ("missing person", "identity", 0.5),
        ("missing person", "worst", 0.0),
        ("missing person", "coverage", 0.5),
        ("missing person", "count_accuracy", 0.0),
        ("swapped halves", "identity", 0.5),
        ("swapped halves", "worst", 0.5),
        ("swapped halves", "swap_rate", 0.5),
        ("swapped halves", "coverage", 1.0),
        ("swapped halves", "margin", 0.0),
        ("duplicate", "identity", 0.5),
        ("duplicate", "worst", 0.0),
        ("duplicate", "swap_rate", 0.5),
        ("extra stranger", "identity", 1.0),
        ("extra stranger", "count_accuracy", 0.0),
        ("crossing", "identity", 1.0),
        ("crossing", "swap_rate", 0.0),
        ("blend", "identity", 0.5**0.5),
        ("blend", "margin", 0.0),
        ("blend", "confusion", 0.5**0.5),
        ("replaced", "identity", 0.5),
        ("replaced", "worst", 0.0),
        ("one face for half", "coverage", 0.75),
        ("one face for half", "count_accuracy", 0.5),
        ("faithful", "separation", 1.0),
        ("missing person", "separation", 0.5),
        ("swapped halves", "separation", 0.0),
        ("duplicate", "separation", 0.0),
        ("blend", "separation", 0.0),
        ("replaced", "separation", 0.5),
        ("nobody", "separation", 0.0),
        ("nobody", "identity", 0.0),
        ("nobody", "coverage", 0.0),
        ("nobody", "swap_rate", None),
        ("nobody", "face_area", None),
    ],
)
def test_known_answers(subjects, case, name, expected):
    found = value(subjects[case], name)
    if expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, abs=1e-6)


def test_face_area_is_a_share_of_the_frame(subjects):
    assert value(subjects["faithful"], "face_area") == pytest.approx(14 * 14 / SIZE_PX**2)


def test_order_of_the_references_does_not_matter(make_subject):
    sights = lambda f: [(*LEFT, A), (*RIGHT, mixed(B, person(2)))]  # noqa: E731
    first, second = make_subject(sights, [A, B]), make_subject(sights, [B, A])
    for name in ("identity", "worst", "margin", "confusion", "swap_rate", "coverage"):
        assert value(first, name) == pytest.approx(value(second, name))


def test_a_stranger_is_not_worse_than_nobody(make_subject):
    opposite = make_subject(lambda f: [(*LEFT, A), (*RIGHT, -B)], [A, B])
    assert value(opposite, "identity") == pytest.approx(0.5)
    assert value(opposite, "worst") == 0.0


def test_a_stranger_is_no_swap(make_subject):
    """A stranger who happens to be a little nearer to the other reference has not changed places with anybody."""
    nearer = 0.95 * person(2) + 0.3 * A
    subject = make_subject(lambda f: [(*LEFT, A), (*RIGHT, nearer / np.linalg.norm(nearer))], [A, B])
    assert value(subject, "swap_rate") == 0.0


def test_strangers_are_no_swaps_whatever_the_best_of_them_scores(make_subject):
    """Two strangers, hardly alike to anybody: which reference is nearer in a frame is chance."""

    def stranger(frame: int, who: int) -> np.ndarray:
        nearer, other = (A, B) if (frame + who) % 2 else (B, A)
        vector = 0.1 * nearer + 0.02 * other + person(2 + who)
        return vector / np.linalg.norm(vector)

    sights = lambda f: [(*LEFT, stranger(f, 0)), (*RIGHT, stranger(f, 1))]  # noqa: E731
    assert value(make_subject(sights, [A, B]), "swap_rate") == 0.0
    assert value(
        make_subject(sights, [A, B], levels=Levels(same_person=0.5, stranger=0.01)), "swap_rate"
    ) == pytest.approx(0.5)


def test_one_person_cannot_be_separated_from_anybody(make_subject):
    alone = make_subject(lambda f: [(*LEFT, A)], [A])
    assert value(alone, "separation") is value(alone, "confusion") is None


@pytest.mark.parametrize("change", [5, 6, 7])
def test_drift_does_not_reward_a_swap_whichever_half_is_longer(make_subject, change):
    swapped = make_subject(lambda f: [(*LEFT, A if f < change else B), (*RIGHT, B if f < change else A)], [A, B])
    assert value(swapped, "drift") == pytest.approx(-1.0)


def test_drift_is_negative_when_people_fade(make_subject):
    fade = make_subject(lambda f: [(*LEFT, A if f < 4 else mixed(A, person(5)))], [A])
    assert value(fade, "drift") == pytest.approx(0.5**0.5 - 1)
    grow = make_subject(lambda f: [(*LEFT, A if f >= 8 else mixed(A, person(5)))], [A])
    assert value(grow, "drift") == pytest.approx(1 - 0.5**0.5)


def test_copy_paste_tells_a_copy_from_a_likeness(make_subject):
    reference, target = person(0), person(0, photo=1)
    copy = make_subject(lambda f: [(*LEFT, reference)], [reference], [target])
    other = make_subject(lambda f: [(*LEFT, target)], [reference], [target])
    between = make_subject(lambda f: [(*LEFT, mixed(reference, target))], [reference], [target])
    assert value(copy, "copy_paste") == pytest.approx(1.0, abs=1e-6)
    assert value(other, "copy_paste") == pytest.approx(-1.0, abs=1e-6)
    assert value(between, "copy_paste") == pytest.approx(0.0, abs=1e-6)
    assert value(make_subject(lambda f: [(*LEFT, reference)], [reference]), "copy_paste") is None


def test_a_frozen_reference_is_a_copy_in_every_case(make_subject):
    """Encoding moves a frozen face to cosine 0.97 in any direction: `copy_paste` alone misses some, `copied` none."""
    rng, reference, target = np.random.default_rng(0), person(0), person(0, photo=1)
    copied, pasted = [], []
    for _ in range(20):
        away = rng.normal(size=len(reference)) * (np.arange(len(reference)) > 0)
        shown = 0.97 * reference + (1 - 0.97**2) ** 0.5 * away / np.linalg.norm(away)
        frozen = make_subject(lambda f, shown=shown: [(*LEFT, shown)], [reference], [target])
        copied.append(value(frozen, "copied"))
        pasted.append(value(frozen, "copy_paste") > 0.5)
    assert copied == [1.0] * 20
    assert not all(pasted)
    filmed = 0.835 * reference + (1 - 0.835**2) ** 0.5 * person(3)
    for shown in (target, filmed):
        assert value(make_subject(lambda f, s=shown: [(*LEFT, s)], [reference], [target]), "copied") == 0.0


def test_a_copy_needs_a_second_photo_or_a_finder_that_states_its_level(make_subject):
    sights = lambda f: [(*LEFT, A)]  # noqa: E731
    assert value(make_subject(sights, [A]), "copied") is None
    assert value(make_subject(sights, [A], levels=Levels(same_person=0.8, stranger=0.25)), "copied") == 1.0
    assert value(make_subject(lambda f: [], [A], levels=Levels(same_person=0.8, stranger=0.25)), "copied") is None


def textured(seed: int) -> torch.Tensor:
    """Draw a clip of soft patterns, as faces are at this size: uint8 [frame, 3, 192, 192]."""
    noise = torch.rand(1, 3, 192, 192, generator=torch.Generator().manual_seed(seed))
    soft = torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
    soft = (soft - soft.mean()) / soft.std() * 50 + 128
    return soft.clamp(0, 255).to(torch.uint8).expand(NUM_FRAMES, -1, -1, -1)


def test_poor_pictures_of_the_right_people_are_told_from_wrong_people(make_subject):
    """Identity is the same low number for blurred, dark and wrong clips; face detail says which pictures are poor."""
    weak = lambda who: 0.3 * who + (1 - 0.3**2) ** 0.5 * person(6)  # noqa: E731
    sights = lambda f: [(20.0, 60.0, weak(A), 70.0), (110.0, 60.0, weak(B), 70.0)]  # noqa: E731
    clear = textured(0)
    blurred = torch.nn.functional.avg_pool2d(clear.float(), (1, 13), 1, (0, 6)).to(torch.uint8)
    grain = torch.randn(clear.shape, generator=torch.Generator().manual_seed(1)) * 10
    dark = (clear.float() * 0.3 + grain).clamp(0, 255).to(torch.uint8)
    detail = {
        name: value(make_subject(sights, [A, B], clip=clip), "face_detail")
        for name, clip in {"wrong": textured(2), "clear": clear, "blurred": blurred, "dark": dark}.items()
    }
    assert detail["wrong"] == pytest.approx(detail["clear"], rel=0.1)
    assert detail["blurred"] < 0.6 * detail["clear"]
    assert detail["dark"] < 0.6 * detail["clear"]


def test_a_pasted_still_is_sharp_alike_and_still(make_subject):
    generator = torch.Generator().manual_seed(0)
    still = torch.randint(0, 255, (1, 3, SIZE_PX, SIZE_PX), generator=generator, dtype=torch.uint8).expand(
        NUM_FRAMES, -1, -1, -1
    )
    pasted = make_subject(lambda f: [(*LEFT, person(0))], [person(0)], [person(0, photo=1)], clip=still)
    assert value(pasted, "identity") == pytest.approx(1.0)
    assert value(pasted, "dynamic_degree") == pytest.approx(0.0, abs=1e-6)
    assert value(pasted, "copy_paste") == pytest.approx(1.0, abs=1e-6)


def test_wrong_references_rise_with_faces_that_resemble_everybody(make_subject):
    average = sum(person(i) for i in range(5)) / 5**0.5
    wrong = [np.stack([person(3), person(4)])]
    mean_face = make_subject(lambda f: [(*LEFT, average), (*RIGHT, average)], [A, B], wrong=wrong)
    assert value(mean_face, "identity") == pytest.approx(0.2**0.5)
    assert value(mean_face, "wrong_reference") == pytest.approx(0.2**0.5)


def test_a_short_ghost_is_not_a_person(make_subject):
    ghost = make_subject(lambda f: [(*LEFT, A), *([(*RIGHT, B)] if f == 3 else [])], [A, B])
    assert value(ghost, "worst") == 0.0


class TestFieldMeasuresFail:
    """Each of these is the published definition doing what it should not; ours beside it."""

    def test_largest_face_never_looks_at_the_second_person(self, make_subject):
        sights = lambda f: [(*LEFT, A, 20.0), (*RIGHT, person(2), 12.0)]  # noqa: E731
        subject = make_subject(sights, [A, B])
        assert value(subject, "facesim_largest") == pytest.approx(1.0)
        assert value(subject, "worst") == 0.0

    def test_largest_face_skips_frames_without_faces(self, make_subject):
        vanishing = make_subject(lambda f: [(*LEFT, A)] if f < 2 else [], [A])
        assert value(vanishing, "facesim_largest") == pytest.approx(1.0)
        assert value(vanishing, "coverage") == pytest.approx(2 / NUM_FRAMES)

    def test_best_pair_gives_full_marks_to_one_of_two(self, subjects):
        assert value(subjects["missing person"], "best_pair") == pytest.approx(1.0)
        assert value(subjects["missing person"], "identity") == pytest.approx(0.5)

    def test_per_frame_assignment_follows_a_swap(self, subjects):
        assert value(subjects["swapped halves"], "per_frame_hungarian") == pytest.approx(1.0)
        assert value(subjects["swapped halves"], "identity") == pytest.approx(0.5)

    def test_single_face_consistency_drops_faithful_videos_of_two(self, subjects):
        assert value(subjects["faithful"], "single_face_consistency") is None
        assert value(subjects["missing person"], "single_face_consistency") == pytest.approx(1.0)

    def test_dynamic_share_cannot_see_motion_halved(self, make_subject):
        pattern = torch.rand(3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(1))
        smooth = torch.nn.functional.avg_pool2d(pattern[None], 9, 1, 4)[0]
        smooth = ((smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255).to(torch.uint8)

        def moving(step_px):
            clip = torch.stack([smooth.roll(step_px * f, -1) for f in range(NUM_FRAMES)])
            return make_subject(lambda f: [], [A], clip=clip)

        fast, slow = moving(6), moving(3)
        assert value(fast, "dynamic_share") == value(slow, "dynamic_share") == 1.0
        assert value(fast, "dynamic_degree") > 1.5 * value(slow, "dynamic_degree")

"""Right and wrong clips in the cosines of a recognition network: the measures order them in every case.

Vectors of 128 numbers stand for faces. Their cosines are those that a recognition network gave for real faces: two photos
of one person about 0.74, strangers within 0.25, frames of one take 0.97, a frozen reference 0.97, a clip filmed from the
reference photo 0.84, blurred or dark faithful faces 0.3.
"""

import numpy as np
import pytest
import torch
from tests.evaluate.conftest import LEFT, RIGHT

from idgrpo.evaluate.measure import load_measures
from idgrpo.people.contract import Levels

CASES, NUM_FRAMES = range(6), 25
BLANK = torch.zeros(NUM_FRAMES, 3, 16, 16, dtype=torch.uint8)
NAMES = ["identity", "separation", "worst", "confusion", "swap_rate", "drift", "copied"]
MEASURES = load_measures(NAMES)
WRONG = ("strangers", "one stranger", "swapped early", "swapped late", "one missing", "duplicated", "blended")


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def near(vector: np.ndarray, cosine: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a unit vector with a cosine to another one."""
    away = rng.normal(size=len(vector))
    away = unit(away - (away @ vector) * vector)
    return cosine * vector + (1 - cosine**2) ** 0.5 * away


def sights_of(kind: str, photos: list[np.ndarray], takes: list[np.ndarray], rng: np.random.Generator):
    """Give the script of a kind of clip: photos are the references, takes other photos of the same people."""
    strangers = [unit(rng.normal(size=128)) for _ in range(2)]
    shown = {
        "good": takes,
        "strangers": strangers,
        "one stranger": [takes[0], strangers[0]],
        "one missing": takes[:1],
        "duplicated": [takes[0], takes[0]],
        "blended": [unit(takes[0] + takes[1])] * 2,
        "frozen": photos,
        "filmed": [near(photo, 0.835, rng) for photo in photos],
        "poor": [near(photo, 0.3, rng) for photo in photos],
    }
    changes = {"swapped early": 10, "swapped late": 15}

    def script(frame: int):
        people = shown.get(kind) or (takes if frame < changes[kind] else takes[::-1])
        places = (LEFT, RIGHT)
        return [(*place, near(who, 0.97, rng)) for place, who in zip(places, people, strict=False)]

    return script


@pytest.fixture(scope="module")
def values(make_subject) -> dict[str, list[dict[str, float | None]]]:
    """Measure six cases of each kind."""
    found: dict[str, list[dict[str, float | None]]] = {}
    for kind in ("good", "frozen", "filmed", "poor", *WRONG):
        for case in CASES:
            rng = np.random.default_rng([case])
            people = [unit(rng.normal(size=128)) for _ in range(2)]
            photos, takes = ([near(person, 0.86, rng) for person in people] for _ in range(2))
            second = [near(person, 0.86, rng) for person in people]
            subject = make_subject(
                sights_of(kind, photos, takes, rng),
                photos,
                second,
                clip=BLANK,
                levels=Levels(same_person=0.74, stranger=0.25),
            )
            found.setdefault(kind, []).append({name: function(subject) for name, function in MEASURES.items()})
    return found


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_clips_are_below_the_good_one_in_every_case(values, kind):
    for good, wrong in zip(values["good"], values[kind], strict=True):
        assert wrong["identity"] < good["identity"] - 0.15
        assert wrong["worst"] < good["worst"] - 0.15
        assert wrong["separation"] < good["separation"] - 0.15


@pytest.mark.parametrize("kind", ["swapped early", "swapped late", "duplicated", "blended"])
def test_only_exchanged_people_are_swaps(values, kind):
    for row in values[kind]:
        assert 0.3 <= row["swap_rate"] <= 0.7
    for other in ("good", "strangers", "one stranger", "one missing", "frozen", "filmed"):
        assert all(row["swap_rate"] == 0.0 for row in values[other]), other


def test_a_swap_is_the_largest_drift_whichever_half_is_longer(values):
    for kind, rows in values.items():
        for row in rows:
            assert (row["drift"] < -0.4) == kind.startswith("swapped"), (kind, row)
            assert row["drift"] < 0.15


def test_only_the_frozen_reference_is_a_copy_and_it_is_one_in_every_case(values):
    for kind, rows in values.items():
        assert [row["copied"] for row in rows] == [float(kind == "frozen")] * len(CASES), kind

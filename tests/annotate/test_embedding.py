"""The filter's measure, with a finder whose embeddings are known."""

import numpy as np
import pytest
import torch

from idgrpo.annotate.embedding import embedding_gap, likeness
from idgrpo.annotate.judge import Question
from idgrpo.people.contract import Detection

AXES = np.eye(4, dtype=np.float32)


class ByColour:
    """Finds one person per colour channel that is lit, in its own place; references are lit in their person's channel."""

    def find(self, clip):
        return [
            [
                Detection(f, (10.0 * k, 0.0, 10.0 * k + 8, 8.0), 1.0, embedding=AXES[k])
                for k in range(3)
                if frame[k].max() > 0
            ]
            for f, frame in enumerate(clip)
        ]

    def embed_reference(self, image):
        return AXES[int(image.flatten(1).amax(1).argmax())]


def showing(*people: int) -> torch.Tensor:
    clip = torch.zeros(3, 3, 8, 32, dtype=torch.uint8)
    for person in people:
        clip[:, person] = 255
    return clip


def test_who_is_missing_counts_nothing():
    photos = [showing(0)[0], showing(1)[0]]
    finder = ByColour()
    assert likeness(finder, showing(0, 1), photos) == pytest.approx(1.0)
    assert likeness(finder, showing(0), photos) == pytest.approx(0.5)
    assert likeness(finder, showing(2), photos) == pytest.approx(0.0)
    assert likeness(finder, showing(), photos) == 0.0


def test_the_gap_has_the_sign_of_the_better_side():
    question = Question(showing(0, 1), showing(0, 2), [showing(0)[0], showing(1)[0]], "two people walk")
    gap = embedding_gap(ByColour())
    assert gap(question) == pytest.approx(0.5) and gap(question.swapped()) == pytest.approx(-0.5)

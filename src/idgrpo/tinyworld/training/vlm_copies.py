"""Lessons in which some clips are the photos themselves, at rest: nobody is kept in them, however alike they are."""

from dataclasses import replace
from typing import TypeVar

import torch

from idgrpo.reward.data import frozen_copy
from idgrpo.tinyworld.training.vlm_judged import JudgedLesson
from idgrpo.tinyworld.training.vlm_truth import Lesson

COPIED = 0.05  # of the clips
AnyLesson = TypeVar("AnyLesson", Lesson, JudgedLesson)


def with_copies(lesson: AnyLesson, generator: torch.Generator) -> AnyLesson:
    """Put copies in the place of a share COPIED of the clips: no cell belongs to anybody, and nothing agrees."""
    copied = torch.rand(len(lesson.videos), generator=generator) < COPIED
    videos = lesson.videos.clone()
    for row in copied.nonzero()[:, 0].tolist():
        videos[row] = frozen_copy(videos[row], list(lesson.references[row]))
    owner = torch.where(copied.view(-1, 1, 1), -1, lesson.owner)
    kept = "present" if isinstance(lesson, Lesson) else "agreement"
    natural = (~copied).float().view(-1, 1, 1)
    return replace(lesson, videos=videos, owner=owner, **{kept: getattr(lesson, kept) * natural})

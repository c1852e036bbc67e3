"""Through a generator: does the side with the right references really keep people better? `pytest -m slow -o log_cli=true`."""

import logging

import numpy as np
import pytest
import torch

from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.generate import renoise as make_again
from idgrpo.bases.load import load_base
from idgrpo.distort.contract import Scene
from idgrpo.distort.identity import renoise
from idgrpo.records.models import Sample
from idgrpo.tinyworld.cases import make_cases, true_clip
from idgrpo.tinyworld.oracle import track_scores
from idgrpo.tinyworld.painter import TinyPainter

log = logging.getLogger(__name__)
STRENGTHS = (0.3, 0.6, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-phantom", "tiny-vace"])
def test_the_right_references_win_on_average_and_mostly(name):
    """A generator that mixes people up does so with the right references too: some labels are wrong, and how many is said."""
    torch.set_num_threads(1)
    base = load_base(name)

    def regenerate(clip, references, prompt, level, seed):
        return make_again(base, clip, references, prompt, level, seed, sampler=SamplerConfig())

    rows = []
    for index, drawn in enumerate(make_cases(8, seed=5)):
        case = drawn.case
        clip = (true_clip(case).pixels[0] * 255).round().byte()
        sample = Sample(
            id=case.id, case_id=case.id, prompt=case.prompt, references=case.references, video="unused.mp4",
            base="tinyworld", seed=0, sampler={"scene": case.seed, "painter": "tiny"},
        )  # fmt: skip
        scene = Scene(clip, TinyPainter.open(sample, clip), [p[0] for p in drawn.photos], case.prompt, regenerate)
        people = [reference.person for reference in case.references]
        for strength in STRENGTHS:
            outcome = renoise(scene, strength, np.random.default_rng(index))
            rows.append([float(track_scores(c, people).mean()) for c in (outcome.better, outcome.worse)])
    scores = np.array(rows).reshape(-1, len(STRENGTHS), 2)
    right = scores[..., 0] > scores[..., 1]
    for k, strength in enumerate(STRENGTHS):
        log.warning(
            "%s strength %.1f: better %.3f, worse %.3f, %d of %d in order",
            name, strength, *scores[:, k].mean(0), right[:, k].sum(), len(right),
        )  # fmt: skip
    assert (scores[..., 0].mean(0) > scores[..., 1].mean(0)).all() and right.mean() >= 0.7

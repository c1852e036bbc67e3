"""How often the checks of `eval` alarm when nothing was tuned: the base against itself, drawn from other noise.

Every comparison of two draws is judged, so that each chance difference counts in both directions.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from idgrpo import stages
from idgrpo.evaluate.config import EvaluateConfig
from idgrpo.evaluate.evaluate import evaluate
from idgrpo.people.load import load_finder

NUM_DRAWS = 8
NUM_CASES = 96
MAX_SHARE = 0.05
pytestmark = pytest.mark.bench


@pytest.mark.parametrize("base", ["tiny-phantom", "tiny-vace"])
def test_alarms_when_nothing_was_tuned(base, tmp_path):
    folder = Path(os.environ.get("IDGRPO_FALSE_ALARMS", tmp_path))
    store, finder = stages.Store(folder), load_finder("tiny")
    cases = stages.cases(num=NUM_CASES, split="eval", name="fresh", store=store)
    draws = []
    for seed in range(NUM_DRAWS):
        drawn = stages.sample(cases, base=base, settings={"seed": seed}, name=f"{base}-{seed}", store=store)
        # a report pairs clips of equal seeds
        draws.append([one.model_copy(update={"seed": 0}) for one in stages.read_samples(drawn)])
    alarms: Counter[str] = Counter()
    alarmed = 0
    for first in range(NUM_DRAWS):
        order = {"base": draws[first]} | {f"draw{i}": draw for i, draw in enumerate(draws) if i != first}
        report = evaluate(order, finder, EvaluateConfig(), cache_folder=folder / "seen")
        raised = [v for v in report.diagnostics if v.level == "alarm"]
        alarms.update(v.name for v in raised)
        alarmed += len({v.variant for v in raised})
    total = NUM_DRAWS * (NUM_DRAWS - 1)
    print(f"\n{base}: {alarmed} of {total} comparisons raise an alarm: {dict(alarms)}")
    assert alarmed <= MAX_SHARE * total

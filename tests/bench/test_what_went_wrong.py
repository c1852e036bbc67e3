"""What became of the people in base and tuned clips, by the renderer's truth: after `make evidence` (or `make demo`)."""

import os
from collections import Counter
from pathlib import Path

import pytest

from idgrpo.records.jsonl import read_records
from idgrpo.records.models import FATES, Sample
from idgrpo.tinyworld.oracle import fates

STORE = Path(os.environ.get("IDGRPO_DEMO", "demo-output/evidence")) / "store" / "artifacts" / "samples"
pytestmark = pytest.mark.bench


@pytest.mark.parametrize("base", ["tiny-phantom", "tiny-vace"])
def test_shares_of_fates_before_and_after(base):
    if not STORE.is_dir():
        pytest.skip(f"{STORE} is missing: run `make evidence`, or set IDGRPO_DEMO")
    shares = {}
    for side in ("before", "after"):
        people: Counter[str] = Counter()
        for folder in sorted(STORE.glob(f"{base}-{side}-seed*")):
            newest = sorted(folder.iterdir())[-1]
            for sample in read_records(newest / "samples.jsonl", Sample):
                people.update(fates(sample.video, tuple(r.person for r in sample.references)))
        shares[side] = {fate: people[fate] / people.total() for fate in FATES}
        told = " | ".join(f"{share:.1%}" for share in shares[side].values())
        print(f"\n| {base} | {side} | {told} | {people.total()} people |")
    assert shares["after"]["kept"] > shares["before"]["kept"]

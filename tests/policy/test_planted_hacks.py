"""Rewards that pay for a shortcut trip the check that is there for them (`examples/hacks.py`): training, sampling, `eval`."""

import json
import runpy
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
HACKS = Path(__file__).resolve().parents[2] / "examples" / "hacks.py"
EXPECTED = {
    "sharp": (12, ("Sharpness", "Ripple")),
    "frozen": (30, ("Motion", "Readable faces")),
    "copy": (30, ("Motion", "Readable faces")),
    "large_faces": (20, ("People told apart", "Worst person")),
    "one_person": (60, ("Every person", "Worst person", "People told apart")),
}
"""Per reward: updates, and the checks that alarm then."""


@pytest.mark.parametrize("name", EXPECTED)
def test_a_planted_hack_is_noticed(name, tmp_path):
    updates, checks = EXPECTED[name]
    report = runpy.run_path(str(HACKS))["run"](name, tmp_path, 0, updates)
    verdicts = json.loads((report.path / "report.json").read_text(encoding="utf-8"))["diagnostics"]
    alarms = {verdict["name"]: verdict["text"] for verdict in verdicts if verdict["level"] == "alarm"}
    assert set(checks) <= alarms.keys(), verdicts
    assert (tmp_path / f"{name}-0.png").is_file()

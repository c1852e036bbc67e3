"""The README's pipeline by its plain commands, one store, references piped from command to command with --quiet."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# As a person would type it: no option but those that keep it small, and those that say what to compare.
PIPELINE = """
set -eu
samples=$(idgrpo sample --base tiny-phantom --num-per-case 2 --quiet)
damaged=$(idgrpo distort --data "$samples" --finder tiny --quiet)
voted=$(idgrpo annotate --samples "$samples" --by oracle --quiet)
rm=$(idgrpo train-rm --data idgrpo-store/artifacts/preferences/distorted/v0001/prefs.jsonl --data "$voted" --quiet)
policy=$(idgrpo train-policy --base tiny-phantom --updates 2 --quiet)
before=$(idgrpo sample --base tiny-phantom --seed 1000 --name before --quiet)
after=$(idgrpo sample --policy "$policy" --seed 1000 --name after --quiet)
report=$(idgrpo eval --samples "base=$before" --samples "tuned=$after" --reward "$rm" --quiet)
idgrpo artifacts verify > /dev/null
printf '%s\\n' "$samples" "$damaged" "$voted" "$rm" "$policy" "$before" "$after" "$report"
"""
REFERENCES = [
    "samples/tiny-phantom@v1",
    "preferences/distorted@v1",
    "preferences/oracle@v1",
    "rm/rm@v1",
    "policy/tiny-phantom@v1",
    "samples/before@v1",
    "samples/after@v1",
    "report/eval@v1",
]


def shell(script: str, folder: Path) -> str:
    """Run a script in a folder where `idgrpo` is this interpreter's; gives its stdout."""
    start = f'idgrpo() {{ {shlex.quote(sys.executable)} -m idgrpo "$@"; }}\n'
    environment = {key: value for key, value in os.environ.items() if key != "IDGRPO_STORE"}
    done = subprocess.run(
        ["sh", "-c", start + script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_whole_loop_by_plain_commands_and_again_at_no_cost(tmp_path):
    assert shell(PIPELINE, tmp_path).split() == REFERENCES
    store = tmp_path / "idgrpo-store" / "artifacts"
    report = store / "report" / "eval" / "v0001"
    document = json.loads((report / "report.json").read_text(encoding="utf-8"))
    assert document["num_cases"] == 8 and set(document["comparisons"]) == {"tuned"}
    assert {"identity", "worst", "reward"} <= set(document["means"]["tuned"])
    assert (report / "report.html").stat().st_size > 50_000 and (report / "contact_sheet.png").is_file()
    manifest = json.loads((store / "policy" / "tiny-phantom" / "v0001" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["metrics"]["updates"] == 2
    assert {entry["ref"] for entry in manifest["inputs"].values()} == {"cases/tinyworld@v1", "rm/rm@v1"}
    lineage = shell("idgrpo artifacts lineage report", tmp_path)
    assert all(
        name in lineage for name in ("samples/after@v1", "policy/tiny-phantom@v1", "rm/rm@v1", "cases/tinyworld@v1")
    )
    versions = sorted(path.relative_to(store) for path in store.glob("*/*/v*"))
    assert shell(PIPELINE, tmp_path).split() == REFERENCES, "the same commands find what they made"
    assert sorted(path.relative_to(store) for path in store.glob("*/*/v*")) == versions

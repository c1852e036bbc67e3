"""The stages from Python: the example runs, and the commands find what it made, with the same digests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The same loop as typed, in another store: digests are of content, so they are the same.
COMMANDS = """
cases
sample --base tiny-phantom --num-per-case 2
distort --finder tiny
annotate --by oracle
train-rm --data preferences/distorted --data preferences/oracle
train-policy --base tiny-phantom --updates 2
sample --base tiny-phantom --seed 1000 --name before
sample --policy policy --seed 1000 --name after
eval --samples base=samples/before --samples tuned=samples/after --reward rm
eval --videos base={store}/artifacts/samples/before/v0001/videos --name by-folder
"""


def python(*words: str, store: Path) -> str:
    environment = {**os.environ, "IDGRPO_STORE": str(store), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_importing_the_stages_is_light(tmp_path):
    code = "import sys; from idgrpo import stages; print([m for m in ('torch', 'numpy', 'av', 'diffusers') if m in sys.modules])"
    assert python("-c", code, store=tmp_path).strip() == "[]"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_and_the_commands_make_the_same_artifacts(tmp_path):
    told = python(str(ROOT / "examples" / "stages.py"), store=tmp_path / "python" / "store")
    by_python = dict(line.split() for line in told.splitlines()[-10:])
    by_command = {}
    store = tmp_path / "shell" / "store"
    for line in COMMANDS.strip().splitlines():
        words = line.format(store=store).split()
        ref = python("-m", "idgrpo", *words, "--quiet", store=store).strip()
        shown = python("-m", "idgrpo", "artifacts", "show", ref, store=store)
        by_command[ref] = shown.split()[1]
    assert by_command == by_python
    # In the same store a command finds what Python made.
    python(
        "-m", "idgrpo", "sample", "--base", "tiny-phantom", "--num-per-case", "2", store=tmp_path / "python" / "store"
    )
    assert not (tmp_path / "python" / "store" / "artifacts" / "samples" / "tiny-phantom" / "v0002").exists()

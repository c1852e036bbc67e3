"""The commands of the tutorial and of the README run, and print what the tutorial says."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorial" / "first-policy.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?")
VERDICTS = ("better", "worse", "unclear", "higher", "lower")


def steps() -> list[tuple[list[str], list[str]]]:
    """Give the calls of the tutorial, each with the lines that the page shows below it."""
    found: list[tuple[list[str], list[str]]] = []
    for language, text in FENCE.findall(TUTORIAL.read_text(encoding="utf-8")):
        if language == "sh":
            lines = re.sub(r"\s+#.*", "", text.replace("\\\n", " ")).splitlines()
            found += [(shlex.split(line)[1:], []) for line in lines if line.startswith("idgrpo ")]
        elif language == "text":
            found[-1] = (found[-1][0], text.splitlines())
    return found


def readme_block() -> list[list[str]]:
    """Give the calls of the README's block that runs the whole loop."""
    blocks = [
        text for language, text in FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8")) if language == "sh"
    ]
    (block,) = (
        text
        for text in blocks
        if "idgrpo train-rm --data preferences" in text and "idgrpo eval" in text and "vace" not in text
    )
    return [shlex.split(line)[1:] for line in re.sub(r"\s+#.*", "", block).splitlines() if line.startswith("idgrpo ")]


def call(words: list[str], folder: Path) -> str:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    environment.pop("IDGRPO_STORE", None)
    command = [sys.executable, "-m", "idgrpo", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"idgrpo {shlex.join(words)}: exit {done.returncode}\n{done.stderr}"
    return done.stdout


def plain(line: str) -> str:
    """Give a line without what differs between machines: numbers, paths, and the verdicts that hang on the last digits."""
    line = re.sub(r"\S*idgrpo-store\S*", "PATH", line).replace("<- __main__.py ", "<- idgrpo ")
    line = re.sub(rf"(\s+{NUMBER.pattern} %)?\s+({'|'.join(VERDICTS)})$", "", line)
    return re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip()


def missing(shown: list[str], printed: list[str]) -> Iterator[str]:
    """Give the lines that the page shows and that were not printed in that order; `..` stands for lines left out."""
    rest = iter(map(plain, printed))
    for line in shown:
        is_left_out = line.strip() == ".." or line.strip().startswith(("watch:", "alarm:"))
        if not is_left_out and not any(plain(line) == other for other in rest):
            yield line


def test_every_command_of_the_tutorial_has_its_output():
    assert len(steps()) >= 10
    assert not [words for words, shown in steps() if not shown]


@pytest.mark.slow
def test_the_tutorial_runs_and_prints_what_it_says(tmp_path):
    for words, shown in steps():
        printed = call(words, tmp_path).splitlines()
        assert not [*missing(shown, printed)], f"idgrpo {shlex.join(words)} printed:\n" + "\n".join(printed)


@pytest.mark.slow
def test_the_block_of_the_readme_runs_twice_and_makes_nothing_anew(tmp_path):
    """Before, the second round distorted the samples of the tuned policy, and everything after it was made again."""
    block = readme_block()
    assert len(block) >= 8
    first = [call(words, tmp_path) for words in block]
    made = call(["artifacts", "list", "--quiet"], tmp_path)
    assert [call(words, tmp_path) for words in block] == first
    assert call(["artifacts", "list", "--quiet"], tmp_path) == made

"""Recipes to copy: every idgrpo command in the scripts is one that the command line takes, and the Dockerfile fits the project."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from idgrpo.cli import COMMANDS
from idgrpo.cli.main import load_command, run

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*(ROOT / "examples").glob("slurm/*.sh"), *(ROOT / "examples").glob("single-24gb/*.sh")])
SETTINGS = sorted((ROOT / "examples" / "single-24gb").glob("*.toml"))
COMMAND = re.compile(r"^(?:srun )?(idgrpo .+?)(?: \|\| .*)?$", re.MULTILINE)


def commands_of(script: Path) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in COMMAND.findall(script.read_text(encoding="utf-8"))]


def test_there_are_recipes():
    assert {path.name for path in SCRIPTS} >= {"sample-array.sh", "train-8-nodes.sh", "scoring-service.sh", "run.sh"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_shell_and_says_how_it_is_started(script):
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True).stderr == ""
    assert f"examples/{script.parent.name}/{script.name}" in script.read_text(encoding="utf-8").split("\n", 2)[1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_commands_of_a_script_are_parsed_by_the_command_line(script):
    found = commands_of(script)
    assert found
    for name, *words in found:
        command = load_command(name)
        while hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        assert name in COMMANDS and command.make_context(name, words) is not None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_job_that_can_be_stopped_goes_on_by_itself(script):
    text = script.read_text(encoding="utf-8")
    if "#SBATCH --signal" in text:
        assert '"$code" -eq 75' in text and "scontrol requeue" in text and "#SBATCH --requeue" in text


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.name)
def test_settings_are_accepted(path, capsys):
    stage = "train-rm" if path.name.startswith("train-rm") else "train-policy"
    base = ["--base", "vace"] if stage == "train-policy" else []
    assert run(["config", "show", stage, *base, "--config", str(path)]) == 0
    assert f"--config examples/{path.parent.name}/{path.name}" in path.read_text(encoding="utf-8")
    capsys.readouterr()


def test_the_dockerfile_copies_what_is_there_and_runs_without_rights():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split()[:-1]), line
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [project["readme"], *project["license-files"]]
    assert all(name in text for name in needed), "the build needs them"
    steps = re.findall(r"^(USER|ENTRYPOINT|RUN) (.+)$", text, re.MULTILINE)
    assert steps.index(("USER", "idgrpo")) < [kind for kind, _ in steps].index("ENTRYPOINT")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "idgrpo-store"} <= set(ignored)

"""Every shipped example is a configuration that the command line accepts, and says what its comments say."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from idgrpo.cli.main import run
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.recipes import recipe
from idgrpo.run.config import load_config
from idgrpo.stages.settings import STAGES

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.toml"))
RECIPES = {"train-policy-tiny": "tiny-phantom", "train-policy-vace-1.3b": "vace"}


def stage_of(path: Path) -> str:
    """Give the stage that the file's name begins with."""
    return max((stage for stage in STAGES if path.stem.startswith(stage)), key=len)


def test_there_are_examples():
    assert {path.stem for path in EXAMPLES} >= {*RECIPES, "train-rm"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_command_line_accepts_every_example(path, capsys):
    assert run(["config", "check", stage_of(path), str(path)]) == 0
    assert "is a valid configuration" in capsys.readouterr().out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_an_example_says_is_what_the_stage_gets(path, capsys):
    assert run(["config", "show", stage_of(path), "--config", str(path), "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)
    assert_holds(settings, tomllib.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_slip_in_an_example_is_refused(path, tmp_path, capsys):
    wrong = tmp_path / path.name
    wrong.write_text(re.sub(r"^seed\b", "sede", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert run(["config", "check", stage_of(path), str(wrong)]) == 2
    assert "did you mean 'seed'" in capsys.readouterr().err


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_command_in_an_example_names_its_stage_and_file(path):
    text = path.read_text(encoding="utf-8")
    assert f"idgrpo {stage_of(path)} " in text and f"--config examples/{path.name}" in text


@pytest.mark.parametrize("name, base", RECIPES.items())
def test_the_policy_examples_write_out_the_default_recipe(name, base):
    (path,) = (path for path in EXAMPLES if path.stem == name)
    preset = recipe("default", base)
    # The size is written out in one of them; it is the base's own training size.
    assert load_config(PolicyConfig, path, base=preset).model_copy(update={"size": preset.size}) == preset


def assert_holds(settings: dict, said: dict) -> None:
    """Check that all values said are in the settings."""
    for key, value in said.items():
        if isinstance(value, dict):
            assert_holds(settings[key], value)
        else:
            assert settings[key] == value, key

"""`config show`: what it prints is what a stage would use, and as a file it changes nothing."""

import json
import tomllib

import pytest

from idgrpo.cli.main import run


@pytest.fixture
def store(tmp_path, capsys):
    where = ["--store", str(tmp_path / "store")]
    assert run(["cases", "--num", "16", *where]) == 0
    capsys.readouterr()
    return where


def planned(capsys, *words) -> dict:
    assert run([*words, "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["config"]


@pytest.mark.parametrize(
    ("base", "recipe", "more"),
    [
        ("vace", "default", ()),
        ("phantom-14b", "paper", ()),
        ("tiny-vace", "default", ()),
        ("vace", "full", ("--set", "num_updates=7")),
    ],
)
def test_the_settings_shown_for_a_base_change_nothing(base, recipe, more, store, tmp_path, capsys):
    """Before, the file replaced the recipe of a full-size base by the defaults of the embedded world without a word."""
    assert run(["config", "show", "train-policy", "--base", base, "--recipe", recipe, *more]) == 0
    text = capsys.readouterr().out
    file = tmp_path / "shown.toml"
    file.write_text(text)
    command = ["train-policy", "--base", base, "--recipe", recipe, "--gpus", "1", *store]
    plain = planned(capsys, *command, *more)
    assert planned(capsys, *command, "--config", str(file)) == plain
    shown = tomllib.loads(text)
    assert shown["num_updates"] == plain["policy"]["num_updates"]
    assert shown["rollout"]["num_steps"] == plain["policy"]["rollout"]["num_steps"]


def test_without_a_base_what_recipes_decide_is_commented_out(store, tmp_path, capsys):
    assert run(["config", "show", "train-policy", "--set", "optimizer.lr=2e-5"]) == 0
    text = capsys.readouterr().out
    file = tmp_path / "shown.toml"
    file.write_text(text)
    assert "# num_updates = " in text and "--base NAME" in text
    command = ["train-policy", "--base", "vace", "--gpus", "1", *store]
    assert planned(capsys, *command, "--config", str(file)) == planned(capsys, *command, "--set", "optimizer.lr=2e-5")


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_the_recipe_of_the_method_is_shown(method, capsys):
    assert run(["config", "show", "train-policy", "--base", "vace", "--set", f"method={method}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_updates"] == {"sft": 1000, "grpo": 300}[method]


def test_every_setting_shown_stands_below_its_description(capsys):
    assert run(["config", "show", "train-policy", "--base", "vace"]) == 0
    lines = capsys.readouterr().out.splitlines()
    settings = [number for number, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    assert len(settings) > 60
    assert not [lines[number] for number in settings if not lines[number - 1].startswith("# ")]
    assert '# width in pixels; None: the base\'s training width (none comes to 416 here)\nwidth = "none"' in "\n".join(
        lines
    )


def test_sample_shows_what_its_base_fills_in(tmp_path, capsys):
    assert run(["config", "show", "sample", "--base", "vace"]) == 0
    text = capsys.readouterr().out
    assert "(none comes to 832 here)" in text and "(none comes to 50 here)" in text
    file = tmp_path / "shown.toml"
    file.write_text(text)
    assert run(["config", "check", "sample", str(file)]) == 0


def test_a_base_or_recipe_without_effect_is_refused(capsys):
    assert run(["config", "show", "eval", "--base", "vace"]) == 2
    assert "do not depend on a base" in capsys.readouterr().err
    assert run(["config", "show", "train-policy", "--recipe", "paper"]) == 2
    assert "add --base" in capsys.readouterr().err
    assert run(["config", "show", "sample", "--base", "vace", "--recipe", "paper"]) == 2

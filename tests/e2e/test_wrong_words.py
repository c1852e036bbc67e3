"""Options, settings and files that do not exist: exit code and message of every command."""

import pytest
from tests.e2e.place import STAGES, TINY_POLICY

from idgrpo.cli.main import run

WRONG_OPTIONS = {
    "annotate": ("--smaples", "--samples"),
    "distort": ("--per-vidoe", "--per-video"),
    "train-rm": ("--dta", "--data"),
    "train-policy": ("--update", "--updates"),
    "sample": ("--sede", "--seed"),
    "eval": ("--smples", "--samples"),
    "artifacts list": ("--stroe", "--store"),
    "artifacts verify": ("--jsn", "--json"),
    "config show sample": ("--confg", "--config"),
    "doctor": ("--jso", "--json"),
    "demo": ("--quik", "--quick"),
}
WRONG_KEYS = {
    "annotate": ("oracle.overlp", "overlap"),
    "distort": ("per_vidoe", "per_video"),
    "train-rm": ("loss.thetta", "theta"),
    "train-policy": ("optimizer.lrr", "lr"),
    "sample": ("sampler.num_step", "num_steps"),
    "eval": ("statistics.levl", "level"),
}
SAMPLES = ("annotate", "--by", "oracle", "--samples", "{w}/samples.jsonl", "--samples", "{w}/wrong.jsonl")
POLICY = ("train-policy", "--base", "tiny-phantom", *TINY_POLICY)
SAMPLE = ("sample", "--base", "tiny-phantom")
# One rule in all commands: what looks like a path and is not there is missing input: 3. A base and a judge have rules of their own.
MISSING = [
    (("annotate", "--by", "oracle", "--samples", "{w}/none.jsonl"), 3, "{w}/none.jsonl"),
    (("annotate", "--by", "oracle", "--pairs", "{w}/none.jsonl"), 3, "{w}/none.jsonl"),
    ((*SAMPLES, "--votes", "none.jsonl"), 3, "none.jsonl"),
    ((*SAMPLES[:1], *SAMPLES[3:], "--gold", "none.jsonl"), 3, "none.jsonl"),
    ((*SAMPLES, "--least-sure", "{w}/none", "--set", "pairs.per_case=1"), 3, "{w}/none"),
    (("distort", "--data", "{w}/none.jsonl"), 3, "{w}/none.jsonl"),
    (("distort", "--data", "{w}/none"), 3, "{w}/none"),
    (("train-rm", "--data", "{w}/none.jsonl"), 3, "{w}/none.jsonl"),
    (("train-rm", "--data", "{w}/prefs.jsonl", "--vlm", "{w}/none"), 4, "{w}/none"),
    ((*POLICY, "--cases", "{w}/none.jsonl"), 3, "{w}/none.jsonl"),
    ((*POLICY, "--cases", "{w}/cases.jsonl", "--rm", "{w}/none"), 3, "{w}/none"),
    ((*POLICY, "--cases", "{w}/cases.jsonl", "--init", "{w}/none"), 3, "{w}/none"),
    (("train-policy", "--base", "{w}/none", "--cases", "{w}/cases.jsonl"), 2, "{w}/none"),
    ((*SAMPLE, "--cases", "{w}/none.jsonl"), 3, "{w}/none.jsonl"),
    ((*SAMPLE, "--cases", "{w}/cases.jsonl", "--policy", "{w}/none"), 3, "{w}/none"),
    (("sample", "--base", "{w}/none", "--cases", "{w}/cases.jsonl"), 2, "{w}/none"),
    (("eval", "--samples", "base={w}/none.jsonl"), 3, "{w}/none.jsonl"),
    (("eval", "--videos", "x={w}/none", "--cases", "{w}/cases.jsonl"), 3, "{w}/none"),
    (("eval", "--videos", "x={w}/videos", "--cases", "{w}/none.jsonl"), 3, "{w}/none.jsonl"),
    (("eval", "--samples", "base={w}/samples.jsonl", "--compare", "{w}/none.json"), 3, "{w}/none.json"),
    (("eval", "--samples", "base={w}/samples.jsonl", "--curves", "x={w}/none.jsonl"), 3, "{w}/none.jsonl"),
    (("eval", "--samples", "base={w}/samples.jsonl", "--reward", "{w}/none"), 3, "{w}/none"),
]
EMPTY_STORE = [
    (("annotate", "--by", "oracle"), "idgrpo sample"),
    (("distort",), "idgrpo sample"),
    (("train-rm",), "idgrpo distort"),
    (("train-policy", "--base", "tiny-phantom"), "idgrpo cases"),
    (("sample", "--base", "vace"), "idgrpo cases"),
    (("eval", "--samples", "base=samples"), "idgrpo sample"),
    (("artifacts", "show", "rm"), "idgrpo train-rm"),
    (("artifacts", "verify", "policy"), "idgrpo train-policy"),
]


@pytest.mark.parametrize("command", WRONG_OPTIONS)
def test_an_unknown_option_exits_2_and_the_nearest_is_named(command, place, capsys):
    wrong, nearest = WRONG_OPTIONS[command]
    before = place.files()
    assert run([*command.split(), wrong, "x"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and f"No such option: {wrong}" in err
    assert nearest in err.partition("Possible options: ")[2] or f"Did you mean {nearest}?" in err
    assert place.files() == before


@pytest.mark.parametrize("stage", STAGES)
def test_an_unknown_setting_exits_2_and_the_nearest_is_named(stage, place):
    key, nearest = WRONG_KEYS[stage]
    says = (f"{key}: there is no such key", f"did you mean '{nearest}'?")
    place.refuses(place.words(stage, "--set", f"{key}=1"), 2, *says)
    *tables, last = key.split(".")
    file = place.root / "settings.toml"
    file.write_text("".join(f"[{table}]\n" for table in tables) + f"{last} = 1\n")
    place.refuses(place.words(stage, "--config", str(file)), 2, *says)
    place.refuses(["config", "check", stage, str(file)], 2, *says)
    place.refuses(["config", "show", stage, "--set", f"{key}=1"], 2, *says)


@pytest.mark.parametrize("stage", STAGES)
def test_a_settings_file_that_is_missing_or_no_toml_exits_2(stage, place):
    place.refuses(place.words(stage, "--config", "none.toml"), 2, "none.toml does not exist")
    place.refuses(["config", "check", stage, "none.toml"], 2, "none.toml does not exist")
    file = place.root / "settings.toml"
    file.write_text("seed 3\n")
    place.refuses(place.words(stage, "--config", str(file)), 2, "{w}/settings.toml is not TOML", "line 1")


def test_a_missing_file_is_named(place):
    for words, code, named in MISSING:
        place.refuses([*_in(place, words), "--store", str(place.store.root)], code, named)


def test_a_missing_artifact_names_the_command_that_makes_it(place):
    empty = place.root / "empty"
    for words, maker in EMPTY_STORE:
        place.refuses([*words, "--store", str(empty)], 4, str(empty), maker)
    assert not list(empty.glob("artifacts/*/*/*"))
    place.refuses(["eval", "--store", str(empty)], 2, "--samples base=REF")


def test_unknown_stages_kinds_and_references_are_named(place):
    store = ["--store", str(place.store.root)]
    place.refuses(["config", "show", "train"], 2, "no stage 'train'", "train-rm")
    place.refuses(["artifacts", "list", "sample", *store], 2, "'sample'", "samples")
    place.refuses(["artifacts", "show", "rm@v9", *store], 4, "rm@v9", "{w}/store")
    place.refuses(["artifacts", "show", "rm:best", *store], 4, "rm:best", "artifacts tag")


def _in(place, words):
    return [word.replace("{w}", str(place.root)) for word in words]

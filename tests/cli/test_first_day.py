"""Traps of the first day: what "newest" takes, plans before anything is trained, inputs joined, help in every form."""

import json
from pathlib import Path

import pytest

from idgrpo.cli.main import run
from idgrpo.records.jsonl import read_records, write_records
from idgrpo.records.models import Preference, Sample
from idgrpo.tinyworld.cases import make_cases, write_cases, write_true_samples


@pytest.fixture
def call(tmp_path, capsys):
    """Run a command on a store of its own; give (exit code, document, stderr)."""

    def invoke(*words: object):
        capsys.readouterr()
        code = run([*map(str, words), "--store", str(tmp_path / "store"), "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out), captured.err

    return invoke


def true_clips(folder: Path, num: int, seed: int) -> Path:
    write_true_samples(folder, write_cases(folder, make_cases(num, seed=seed)))
    return folder / "samples.jsonl"


@pytest.fixture
def tuned(call, tmp_path):
    """Fill the store: samples of the embedded world, then newer ones that a policy made (only the records are real)."""
    from idgrpo.store.store import Store

    assert call("cases", "--num", 2)[0] == 0
    assert call("sample", "--base", "tinyworld", "--name", "plain")[0] == 0
    store = Store(tmp_path / "store")
    plain = store.resolve("samples/plain")
    samples = list(read_records(plain.file("samples.jsonl"), Sample))
    with store.publish("policy", "p", inputs={}, config={}) as draft:
        (draft.path / "policy.json").write_text("{}")
    with store.publish("samples", "after", inputs={"policy": draft.artifact}, config={}) as made:
        write_records(made.path / "samples.jsonl", samples)
    return call


def test_distort_never_takes_samples_of_a_policy_unasked(tuned):
    """Before, the newest samples were taken, which a tuned policy had made, without a word."""
    code, document, err = tuned("distort", "--dry-run")
    assert code == 0 and document["reads"] == "samples/plain@v1"
    assert "samples: samples/plain@v1, the newest of a base without a policy" in err
    assert tuned("distort", "--dry-run", "--data", "samples/after")[1]["reads"] == "samples/after@v1"
    assert tuned("distort", "--dry-run", "--data", "samples")[1]["reads"] == "samples/after@v1"


def test_with_samples_of_policies_alone_distort_says_how_to_name_them(tuned, tmp_path):
    import shutil

    shutil.rmtree(tmp_path / "store" / "artifacts" / "samples" / "plain")
    code, document, _ = tuned("distort", "--dry-run")
    assert code == 4 and "tuned policies" in document["error"]["message"] and "samples@v1" in document["error"]["fix"]


def test_what_is_taken_as_newest_is_said(tuned):
    given = [
        "train-policy",
        "--base",
        "tiny-phantom",
        "--method",
        "sft",
        "--set",
        "clips.num_per_update=2",
        "--dry-run",
    ]
    _, document, err = tuned(*given)
    assert document["would_read"] == {"data": "samples/after@v1"} and "samples: samples/after@v1, the newest\n" in err
    assert "the newest" not in tuned(*given, "--data", "samples/plain")[2]


def test_what_a_command_finds_again_is_the_newest(call):
    """So a row of commands can run twice: each takes what the one before gave, as the first time."""
    assert call("cases", "--num", 2)[0] == 0
    assert call("sample", "--base", "tinyworld", "--name", "first")[0] == 0
    assert call("cases", "--num", 3)[0] == 0
    assert call("sample", "--base", "tinyworld", "--name", "second")[0] == 0
    assert call("distort", "--dry-run")[1]["reads"] == "samples/second@v1"
    assert call("cases", "--num", 2)[1]["artifact"] == "cases/tinyworld@v1"
    assert call("sample", "--base", "tinyworld", "--name", "first")[1]["artifact"] == "samples/first@v1"
    assert call("distort", "--dry-run")[1]["reads"] == "samples/first@v1"
    assert call("artifacts", "show", "samples")[1]["ref"] == "samples/second@v1"  # a reference means what was made last


def test_distort_joins_what_data_names_and_keeps_clips_of_one_id_apart(call, tmp_path):
    """Before, the last --data was taken and the others were dropped without a word."""
    one, two = true_clips(tmp_path / "one", 2, 1), true_clips(tmp_path / "two", 2, 2)
    ids = [sample.id for sample in read_records(one, Sample)]
    alike = [s.model_copy(update={"id": name}) for s, name in zip(read_records(two, Sample), ids, strict=True)]
    write_records(two, alike)
    code, document, err = call("distort", "--data", one, "--data", two, "--data", one, "--per-video", 1, "--no-sheets")
    assert code == 0, err
    assert document["clips"] == 4
    (file,) = (tmp_path / "store").rglob("prefs.jsonl")
    pairs = list(read_records(file, Preference, unique="pair_id"))
    people = {reference.person for pair in pairs for reference in pair.references}
    wanted = {r.person for source in (one, two) for sample in read_records(source, Sample) for r in sample.references}
    assert len(pairs) == 4 and people >= wanted
    manifest = json.loads((file.parent / "manifest.json").read_text())
    assert [Path(entry["ref"]).parent.name for entry in manifest["inputs"].values()] == ["one", "two", "one"]


def test_sft_joins_what_data_names(call, tmp_path):
    one, two = true_clips(tmp_path / "one", 9, 1), true_clips(tmp_path / "two", 8, 2)
    given = ["train-policy", "--base", "tiny-phantom", "--method", "sft", "--dry-run"]
    assert call(*given, "--data", one, "--data", two)[1]["num_clips"] == 17
    (lack,) = call(*given, "--data", one)[1]["lacks"]
    assert "there are 9" in lack  # fewer than an update takes: a plan says so, with --gpus and without
    assert call(*given[:-1], "--data", one)[0] == 2


def test_a_plan_for_64_gpus_needs_no_reward_model_and_gives_totals(call):
    """Before, it ended with exit code 4."""
    assert call("cases", "--num", 16)[0] == 0
    code, document, _ = call("train-policy", "--base", "vace", "--dry-run", "--gpus", 64)
    assert code == 0 and any("idgrpo train-rm" in line for line in document["lacks"])
    forecast = document["forecast"]
    assert forecast["hours"] == pytest.approx(300 * forecast["seconds"] / 3600)
    assert forecast["gpu_hours"] == pytest.approx(64 * forecast["hours"])
    assert forecast["num_videos"] == 300 * 128
    assert forecast["total_pflop"] == pytest.approx(300 * 128 * forecast["sample_tflop"] / 1000)
    assert call("train-policy", "--base", "vace")[0] == 4  # a run does need it


def test_a_plan_says_that_cases_are_too_few_instead_of_ending(call):
    assert call("cases", "--num", 4)[0] == 0
    code, document, _ = call("train-policy", "--base", "vace", "--dry-run", "--gpus", 8)
    assert code == 0 and any("16 different cases, but there are 4" in line for line in document["lacks"])


def test_the_plan_of_sample_gives_hours_once_the_speed_is_known(call, tmp_path):
    assert call("cases", "--num", 2)[0] == 0
    code, document, _ = call("sample", "--base", "tiny-phantom", "--dry-run")
    assert code == 0 and document["hours"] is None and document["total_tflop"] > 0
    assert call("sample", "--base", "tiny-phantom", "--device", "cpu")[0] == 0
    plan = call("sample", "--base", "tiny-phantom", "--device", "cpu", "--num-per-case", 5, "--dry-run")[1]
    (file,) = (tmp_path / "store" / "artifacts" / "samples").rglob("manifest.json")
    speed = json.loads(file.read_text())["metrics"]["tflop_per_second"]
    assert plan["hours"] == pytest.approx(plan["total_tflop"] / speed / 3600)
    assert call("sample", "--base", "tiny-vace", "--device", "cpu", "--dry-run")[1]["hours"] is None


@pytest.mark.parametrize(("words", "like"), [(["version"], ["--version"]), (["help"], ["--help"])])
def test_words_say_what_options_say(words, like, capsys):
    assert run(like) == 0
    wanted = capsys.readouterr().out
    assert run(words) == 0
    assert capsys.readouterr().out == wanted


def test_help_of_a_stage(capsys):
    assert run(["help", "train-policy"]) == 0
    out = capsys.readouterr().out
    assert "Usage: idgrpo train-policy" in out and "--recipe" in out
    assert run(["help", "artifacts", "show"]) == 0
    assert "Usage: idgrpo artifacts show" in capsys.readouterr().out
    assert run(["help", "trainpolicy"]) == 2
    assert "did you mean 'train-policy'?" in capsys.readouterr().err

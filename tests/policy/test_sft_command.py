"""`idgrpo train-policy --method sft` through the real command line, and the chain into GRPO."""

import json
from pathlib import Path

import pytest
from policy_setting import SMALL, write_setting
from test_dpo import write_preferences
from test_sft import write_samples

from idgrpo.cli.main import run

GRPO = SMALL[2:]  # without its --updates
SFT = ("--set", "clips.num_per_update=2", "--set", "lora.rank=2", "--set", "checkpoint.every=1")


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("setting")
    samples = write_samples(folder / "clips", num=4, size=(5, 32, 32), per_case=2)
    preferences = write_preferences(folder / "pairs", size=(5, 32, 32))
    return write_setting(folder) | {"data": str(samples), "prefs": str(preferences)}


@pytest.fixture
def call(tmp_path, setting, capsys):
    def invoke(*arguments: str):
        capsys.readouterr()
        code = run(
            ["train-policy", "--base", setting["base"], "--store", str(tmp_path / "store"), *arguments, "--json"]
        )
        return code, json.loads(capsys.readouterr().out)

    return invoke


def test_clips_then_grpo_from_there(call, setting):
    sft = ("--method", "sft", "--data", setting["data"], "--updates", "2", *SFT)
    code, first = call(*sft, "--set", "clips.guidance=2", "--name", "warm")
    assert code == 0, first
    assert {"matching_first", "matching_last"} <= first["metrics"].keys() and "reward_first" not in first["metrics"]
    assert json.loads((Path(first["path"]) / "policy.json").read_text())["config"]["method"] == "sft"
    assert call(*sft, "--set", "clips.guidance=2", "--name", "warm")[1]["artifact"] == first["artifact"]
    given = ["--cases", setting["cases"], "--rm", setting["rm"], "--updates", "1", *GRPO]
    start = ["--set", "kl.reference=start", "--set", "reward.contrast=0.5"]
    code, second = call(*given, "--init", first["artifact"], *start)
    assert code == 0, second
    card = json.loads((Path(second["path"]) / "policy.json").read_text())
    assert (card["method"], card["start"], card["reference"]) == ("grpo", first["artifact"], first["artifact"])
    manifest = json.loads((Path(second["path"]) / "manifest.json").read_text())
    assert manifest["inputs"]["init"] == manifest["inputs"]["reference"]
    plan = call(*given, "--init", first["artifact"], "--set", "reward.contrast=0.5", "--dry-run")[1]
    assert plan["start"] == first["artifact"] and plan["reference"] == setting["base"]  # unless kl.reference=start
    rows = [json.loads(line) for line in (Path(second["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-9) and rows[0]["grad_norm"] > 0


def test_preferences_are_learnt_against_the_base(call, setting):
    given = ("--method", "dpo", "--data", setting["prefs"], *SFT)
    code, plan = call(*given, "--dry-run", "--gpus", "2")
    assert code == 0 and (plan["num_preferences"], plan["samples_per_update"]) == (4, 4), plan
    code, first = call(*given, "--updates", "2")
    assert code == 0, first
    assert first["metrics"]["preference_first"] == pytest.approx(0.6931, abs=1e-3)
    assert call(*given, "--updates", "2")[1]["artifact"] == first["artifact"]
    card = json.loads((Path(first["path"]) / "policy.json").read_text())
    assert (card["method"], card["start"], card["reference"]) == ("dpo", None, setting["base"])


def test_the_best_clips_need_a_reward_model_and_plan_says_what_is_done(call, setting):
    best = ("--method", "sft", "--data", setting["data"], "--set", "clips.keep=best", *SFT)
    code, document = call(*best, "--rm", setting["rm"], "--updates", "1")
    assert code == 0, document  # two cases of two clips
    code, document = call(*best, "--rm", setting["rm"], "--set", "clips.num_per_update=3")
    assert code == 2 and "3 different clips, but there are 2" in document["error"]["message"]
    code, document = call(*best, "--rm", setting["rm"], "--dry-run", "--gpus", "2")
    assert code == 0 and document["samples_per_update"] == 2 and document["rollout_forwards_per_update"] == 0
    assert document["would_read"].keys() == {"data", "rm"} and document["num_clips"] == 4


def test_a_contrastive_reward_is_counted_by_the_plan(call, setting):
    given = ["--cases", setting["cases"], "--rm", setting["rm"], *GRPO, "--dry-run"]
    plain, contrast = (call(*given, "--set", f"reward.contrast={weight}")[1] for weight in (0, 0.5))
    assert plain["scored_sets_per_update"] == 4 and contrast["scored_sets_per_update"] == 4 * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "sft", "--cases", "cases"), "learns from stored clips, not from --cases"),
        (("--data", "data"), "--data is what --method sft and dpo learn from"),
        (
            ("--method", "sft", "--data", "data", *SFT, "--set", "clips.num_per_update=9"),
            "9 different clips, but there are 4",
        ),
        (("--method", "ppo"), "method"),
        (("--method", "dpo", "--data", "prefs", "--rm", "rm"), "reads no reward model"),
        (
            ("--method", "dpo", "--data", "prefs", "--set", "clips.num_per_update=9"),
            "9 different preferences, but there are 4",
        ),
        (("--method", "dpo", "--data", "data"), "holds samples, preferences are needed here"),
        (("--method", "dpo", "--data", "prefs", "--data", "prefs"), "is there twice"),
        (("--method", "dpo", "--data", "prefs", "--set", "group.size=4"), "group.size is a setting of method=grpo"),
        (
            ("--method", "sft", "--data", "data", "--set", "reward.normalise=group"),
            "reward.normalise is a setting of method=grpo",
        ),
        (("--method", "sft", "--data", " "), "an empty text names no samples"),
        (("--method", "sft", "--data", "data", "--rm", "rm"), "reads a reward model only to keep the best clip"),
        (("--method", "sft", "--data", "data", "--set", "kl.reference=start"), "the policy that --init names"),
        (("--method", "dpo", "--data", "prefs", "--set", "kl.reference=start"), "the policy that --init names"),
        (
            ("--method", "sft", "--data", "data", "--set", "method=dpo"),
            "--set says that method is dpo, an option that it is sft",
        ),
        (("--method", "sft", "--data", "cases"), "field"),
    ],
)
def test_wrong_input_is_refused_before_the_base_is_loaded(call, setting, arguments, message):
    given = [setting.get(argument, argument) for argument in arguments]
    code, document = call(*given)
    assert code in (2, 3) and message in document["error"]["message"], document


def test_a_start_of_another_base_is_refused_by_its_card(call, setting, tmp_path):
    """It was found when the adapter was loaded, after everything had been encoded."""
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text('{"base": "vace"}')
    (tmp_path / "policy" / "pytorch_lora_weights.safetensors").write_bytes(b"")
    code, document = call(
        "--method", "sft", "--data", setting["data"], "--init", str(tmp_path / "policy"), *SFT, "--dry-run"
    )
    assert code == 4 and "was trained on vace, whose layers are not those of" in document["error"]["message"], document


def test_votes_that_cancel_out_leave_the_samples_beside_them(call, setting, tmp_path, caplog):
    """One file without a winner stopped a run that had other clips."""
    rows = Path(setting["prefs"]).read_text().splitlines()
    row = json.loads(rows[0]) | {"label": "a"}
    file = Path(setting["prefs"]).parent / "torn.jsonl"
    file.write_text("".join(json.dumps(row | {"pair_id": name, "label": name}) + "\n" for name in ("a", "b")))
    code, document = call("--method", "sft", "--data", str(file), "--data", setting["data"], *SFT, "--dry-run")
    assert code == 0 and document["num_clips"] == 4, document
    assert "nothing is learnt from them" in caplog.text
    code, document = call("--method", "sft", "--data", str(file), *SFT, "--dry-run")
    assert code == 3 and "no clip was preferred more often than not" in document["error"]["message"]


def test_equal_lines_in_two_folders_are_two_sources(call, tmp_path):
    for place, name in enumerate(("here", "there")):
        write_samples(tmp_path / name, num=2, size=(5, 32, 32))
        if place:
            write_samples(tmp_path / "other", num=3, size=(5, 32, 32))
            for clip in (0, 1):
                (tmp_path / "other" / f"clip-{clip + 1}.mp4").replace(tmp_path / name / f"clip-{clip}.mp4")
    first, second = (str(tmp_path / name / "samples.jsonl") for name in ("here", "there"))
    assert Path(first).read_text() == Path(second).read_text()
    code, document = call("--method", "sft", "--data", first, "--data", second, *SFT, "--dry-run")
    assert code == 0 and document["num_clips"] == 4, document


def test_preferences_are_known_behind_an_empty_line_and_a_missing_clip_by_its_own(call, setting, tmp_path):
    """A blank first line made samples of them; a missing clip was told without file and line, after the base was loaded."""
    rows = Path(setting["prefs"]).read_text().splitlines()
    folder = Path(setting["prefs"]).parent
    rows = [json.loads(row) for row in rows]
    for row in rows:
        row |= {side: str(folder / row[side]) for side in ("video_a", "video_b")}
        for reference in row["references"]:
            reference["images"] = [str(folder / image) for image in reference["images"]]
    rows[1]["video_b"] = str(tmp_path / "gone.mp4")
    path = tmp_path / "prefs.jsonl"
    path.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
    for method in ("sft", "dpo"):
        code, document = call("--method", method, "--data", str(path), *SFT, "--dry-run")
        assert code == 3 and f"{path}:3: field 'video_b'" in document["error"]["message"], document

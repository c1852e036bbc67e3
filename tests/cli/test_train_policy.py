"""`idgrpo train-policy` through the real command line: defaults, results, wrong input, stops and kills."""

import json
import os
import sys
from pathlib import Path

import pytest

for room in ("bases", "reward", "policy"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from policy_setting import SMALL, write_setting  # noqa: E402

from idgrpo.cli.main import run  # noqa: E402
from idgrpo.video.read import read_image  # noqa: E402


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> dict[str, str]:
    return write_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture
def call(tmp_path, setting, capsys):
    """Run the command; return exit code, parsed JSON (or text) and stderr."""

    def invoke(*arguments: str, as_json: bool = True, inputs: bool = True):
        capsys.readouterr()
        given = ["--cases", setting["cases"], "--rm", setting["rm"]] if inputs else []
        flags = ["--json"] if as_json else []
        command = ["train-policy", "--base", setting["base"], "--store", str(tmp_path / "store"), *given]
        code = run([*command, *SMALL, *arguments, *flags])
        out, err = capsys.readouterr()
        return code, json.loads(out) if as_json else out, err

    return invoke


def test_trains_publishes_and_is_found_again(call, tmp_path):
    code, document, _ = call()
    assert code == 0 and document["artifact"] == "policy/tiny-random@v1"
    folder = Path(document["path"])
    assert {"pytorch_lora_weights.safetensors", "policy.json", "metrics.jsonl"} <= {p.name for p in folder.iterdir()}
    assert document["metrics"]["updates"] == 2
    assert json.loads((folder / "policy.json").read_text())["updates"] == 2
    again = call()[1]
    assert again["artifact"] == document["artifact"] and again["digest"] == document["digest"]
    code, out, _ = call("--quiet", as_json=False)
    assert code == 0 and out == "policy/tiny-random@v1\n"
    code, out, _ = call(as_json=False)
    assert "training reward" in out and "idgrpo eval" in out


def test_curves_and_the_last_samples_are_published_as_pictures(call):
    from idgrpo.video.read import read_image

    code, document, _ = call("--set", "preview.every=1")
    assert code == 0, document
    for name in ("curves.png", "previews.png"):
        picture = read_image(Path(document["path"]) / name)
        assert min(picture.shape[1:]) > 50 and picture.float().std() > 1, name


def test_forced_run_starts_afresh_and_ends_alike(call):
    first = Path(call()[1]["path"]) / "pytorch_lora_weights.safetensors"
    second = call("--force")[1]
    assert second["artifact"] == "policy/tiny-random@v2"
    assert (Path(second["path"]) / "pytorch_lora_weights.safetensors").read_bytes() == first.read_bytes()


def test_a_run_is_made_longer_and_ends_as_if_it_had_been_so_long_from_the_start(call):
    constant = ("--set", "optimizer.schedule=constant")
    kept = (*constant, "--set", "checkpoint.every=1", "--set", "checkpoint.keep_every=1")
    assert call(*kept)[0] == 0
    code, longer, err = call(*kept, "--updates", "3", "--set", "checkpoint.keep_last=3")
    assert code == 0, err
    whole = call(*constant, "--updates", "3", "--name", "whole")[1]
    rows = [(Path(one["path"]) / "metrics.jsonl").read_text().splitlines() for one in (longer, whole)]
    assert [json.loads(row)["step"] for row in rows[0]] == [json.loads(row)["step"] for row in rows[1]] == [1, 2, 3]
    short = (Path(call(*kept)[1]["path"]) / "metrics.jsonl").read_text().splitlines()
    assert rows[0][:2] == short  # with its times: these updates were not made again
    weights = [(Path(one["path"]) / "pytorch_lora_weights.safetensors").read_bytes() for one in (longer, whole)]
    assert weights[0] == weights[1]
    code, document, _ = call(*kept, "--updates", "1")
    assert code == 2 and "has made 3 updates already, 1 are asked for" in document["error"]["message"]


def test_dry_run_shows_work_and_writes_nothing(call, tmp_path):
    code, document, _ = call("--dry-run")
    assert code == 0 and document["samples_per_update"] == 4
    assert document["rollout_forwards_per_update"] == 32 and document["replayed_steps_per_update"] == 8
    assert document["config"]["policy"]["num_updates"] == 2
    assert not (tmp_path / "store" / "artifacts").exists() and not (tmp_path / "store" / "runs").exists()


def test_noise_in_steps_and_selective_recomputation_by_settings(call):
    code, document, _ = call("--set", "loss.credit=steps", "--set", "engine.recompute=selective")
    assert code == 0, document
    rows = [json.loads(line) for line in (Path(document["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert all(row["log_ratio_max"] < 1e-5 and row["grad_norm"] > 0 for row in rows)
    code, document, _ = call("--set", "rollout.noise=shared")
    assert code == 2 and "members of a group would be equal" in document["error"]["message"]


def test_all_weights_by_a_recipe_sampled_and_not_exported(call, tmp_path, setting, capsys):
    code, document, _ = call("--recipe", "full", "--set", "optimizer.lr=0.01")
    assert code == 0, document
    assert (Path(document["path"]) / "transformer" / "config.json").is_file()
    made = [
        "sample",
        "--base",
        setting["base"],
        "--cases",
        setting["cases"],
        "--store",
        str(tmp_path / "store"),
        "--json",
    ]
    clips = []
    for policy in ([], ["--policy", document["artifact"]]):
        capsys.readouterr()
        assert run([*made, *policy]) == 0
        folder = Path(json.loads(capsys.readouterr().out)["path"])
        clips.append(sorted(path.read_bytes() for path in folder.rglob("*.mp4")))
    assert clips[0] and clips[0] != clips[1]
    code = run(
        [
            "artifacts",
            "export",
            document["artifact"],
            "--out",
            str(tmp_path / "a.safetensors"),
            "--store",
            str(tmp_path / "store"),
        ]
    )
    assert code == 2 and "holds whole weights" in capsys.readouterr().err
    code, error, _ = call("--init", document["artifact"])
    assert code == 2 and "holds whole weights, this run trains an adapter" in error["error"]["message"]


def test_controls_are_taken_out_of_the_advantages_by_a_setting(call):
    # In pairs, two controls would explain every difference, and nothing would move but by rounding.
    code, document, _ = call("--set", 'advantage.controls=["sharpness","saturation"]', "--set", "group.size=4")
    assert code == 0, document
    rows = [json.loads(line) for line in (Path(document["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["advantage_explained_share"] < 1 for row in rows)
    assert (
        all({"drift_sharpness", "drift_saturation"} <= row.keys() for row in rows) and rows[-1]["drift_sharpness"] != 0
    )
    assert [row["lr"] for row in rows] == pytest.approx([6e-3, 3e-3])  # two updates of the recipe's falling rate
    code, document, _ = call("--set", "advantage.controls=[]")
    assert code == 2 and "set advantage.hold=0" in document["error"]["message"]
    code, document, _ = call("--set", "advantage.hold=0", "--set", "optimizer.schedule=constant")
    rows = [json.loads(line) for line in (Path(document["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert not any("drift_sharpness" in row for row in rows) and {row["lr"] for row in rows} == {6e-3}
    code, document, _ = call("--set", 'advantage.controls=["beauty"]')
    assert code == 2 and "advantage.controls" in document["error"]["message"]


def test_dry_run_predicts_an_update_on_gpus(call):
    code, document, _ = call("--dry-run", "--gpus", "2", "--set", "plan.tflops=0.001")
    forecast = document["forecast"]
    assert code == 0 and forecast["gpus"] == 2 and forecast["fits"] and forecast["traffic_gib"] > 0
    slower = call("--dry-run", "--gpus", "1", "--set", "plan.tflops=0.001")[1]["forecast"]
    assert slower["compute_s"] == pytest.approx(2 * forecast["compute_s"]) and slower["traffic_gib"] == 0
    code, out, _ = call("--dry-run", "--gpus", "2", as_json=False)
    assert code == 0 and "--zero 0" in out and "TFLOP a sample" in out


@pytest.fixture
def plan_of_vace(setting, tmp_path, capsys):
    """Give the dry run of the full-size base with its own recipe, which needs no weights."""
    lines = Path(setting["cases"]).read_text().splitlines()
    cases = Path(setting["cases"]).with_name("twenty.jsonl")
    cases.write_text("".join(lines[i % 4].replace(f"case-{i % 4}", f"case-{i}") + "\n" for i in range(20)))

    def invoke(gpus, *arguments):
        capsys.readouterr()
        given = ["--base", "vace", "--cases", str(cases), "--rm", setting["rm"], "--store", str(tmp_path / "store")]
        code = run(["train-policy", *given, "--dry-run", "--gpus", str(gpus), *arguments])
        return code, capsys.readouterr().out

    return invoke


@pytest.mark.parametrize("recipe", ["default", "paper", "full"])
def test_full_size_plan_on_64_gpus(plan_of_vace, recipe):
    code, out = plan_of_vace(64, "--recipe", recipe, "--json")
    forecast = json.loads(out)["forecast"]
    assert code == 0 and forecast["gpus"] == 64 and forecast["zero"] in (0, 1, 2, 3) and forecast["micro_batch"] >= 1
    assert forecast["seconds"] > 1 and forecast["memory_gib"] > 10 and forecast["traffic_gib"] > 0
    assert forecast["num_cases"] == 16 and forecast["samples_per_update"] == 128  # two samples of a group on each


def test_plan_for_gpus_that_do_not_divide_is_for_the_next_number_of_groups(plan_of_vace):
    code, out = plan_of_vace(48)
    assert code == 0 and "group.num_cases=18" in out and "128 % 48 = 32" in out
    assert json.loads(plan_of_vace(48, "--json")[1])["forecast"]["num_cases"] == 18


def test_identity_measures_stand_beside_the_reward_model_and_viewers_get_the_numbers(call, tmp_path):
    measures = ["--reward", "identity", "--reward", "worst", "--set", "reward.finder=policy_setting:ColourFinder"]
    code, document, _ = call(*measures, "--set", "reward.normalise=group", "--set", "reward.overlap=true")
    assert code == 0, document
    rows = [json.loads(line) for line in (Path(document["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert all({"reward_rm_mean", "reward_identity_mean", "reward_worst_mean"} <= row.keys() for row in rows)
    assert list((tmp_path / "store").glob("runs/*/tensorboard/events*"))


def test_missing_pieces_name_the_command_that_makes_them(call, setting):
    code, document, _ = call(inputs=False)
    assert code == 4 and "idgrpo cases" in document["error"]["fix"]
    code, document, _ = call("--cases", setting["cases"], inputs=False)
    assert code == 4 and "idgrpo train-rm" in document["error"]["fix"]


def test_newest_cases_and_reward_model_of_the_store_are_taken(call, setting, tmp_path):
    from idgrpo.records.cases import read_cases
    from idgrpo.records.jsonl import write_records
    from idgrpo.store.store import Store

    store = Store(tmp_path / "store")
    with store.publish("cases", "mine", inputs={}, config={}) as draft:
        write_records(draft.path / "cases.jsonl", read_cases(Path(setting["cases"])))
    with store.publish("rm", "rm", inputs={}, config={}) as draft:
        for path in Path(setting["rm"]).iterdir():
            (draft.path / path.name).write_bytes(path.read_bytes())
    code, document, _ = call(inputs=False)
    assert code == 0, document
    lineage = {step.ref for step in store.lineage(store.resolve("policy")) if step.artifact is not None}
    assert {"cases/mine@v1", "rm/rm@v1"} <= lineage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "optimizer.lrr=1"], "did you mean 'lr'"),
        (["--set", "rollout.window.last=4"], "must be deterministic"),
        (["--set", "group.num_cases=9"], "need 9 different cases, but there are 4"),
        (["--gpus", "4"], "--gpus only predicts"),
        (["--nproc", "3"], "2 groups of 2 samples do not divide over 3 ranks (4 % 3 = 1)"),
        (["--recipe", "fast"], "known: default, unguided, paper, full"),
        (["--base", "vaze"], "vaze"),
        (["--sett", "a=1"], "sett"),
        (["--set", "evaluation.every=2"], "no held-out cases"),
        (["--eval-cases", "cases"], "how often"),
    ],
)
def test_wrong_use_is_exit_2_with_the_reason(call, setting, arguments, words):
    arguments = [setting.get(argument, argument) for argument in arguments]
    code, document, _ = call(*arguments)
    assert code == 2 and words in document["error"]["message"]


def test_all_configuration_errors_come_at_once(call):
    code, document, _ = call("--set", "optimizer.lr=-1", "--set", "loss.name=ppo", "--set", "grup.size=4")
    assert code == 2
    for words in ("optimizer.lr", "known: clip, ratio-norm, kl-mask", "did you mean 'group'"):
        assert words in document["error"]["message"]


def test_malformed_case_names_file_and_line(call, setting, tmp_path):
    broken = Path(setting["cases"]).with_name("broken.jsonl")
    lines = Path(setting["cases"]).read_text().splitlines()
    broken.write_text("\n".join([*lines[:2], lines[2].replace('"prompt"', '"promt"')]) + "\n")
    code, document, _ = call("--cases", str(broken))
    assert code == 3 and "broken.jsonl:3" in document["error"]["message"]


def test_missing_reference_image_is_named_and_the_run_goes_on_when_it_is_back(call, setting):
    image = Path(setting["cases"]).with_name("person-0.png")
    content = image.read_bytes()
    image.unlink()
    try:
        code, document, _ = call("--updates", "3")
        assert code == 3 and "person-0.png" in document["error"]["message"]
    finally:
        image.write_bytes(content)
    assert call("--updates", "3")[0] == 0


def test_damaged_reward_model_is_exit_4(call, setting, tmp_path):
    broken = tmp_path / "rm"
    broken.mkdir()
    for path in Path(setting["rm"]).iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "reward.json").unlink()
    code, document, _ = call("--rm", str(broken))
    assert code == 4 and "not a reward model" in document["error"]["message"]


def test_same_settings_as_a_file(call, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("num_updates = 1\n[optimizer]\nlr = 0.002\n")
    code, document, _ = call("--config", str(path), "--dry-run")
    assert code == 0
    assert document["config"]["policy"]["optimizer"]["lr"] == 0.002
    assert document["config"]["policy"]["num_updates"] == 2  # an option beats the file


def test_published_policy_changes_what_sample_makes(call, setting, tmp_path, capsys):
    policy = call()[1]["artifact"]
    videos = []
    for extra in ([], ["--policy", policy]):
        capsys.readouterr()
        arguments = [
            "--cases",
            setting["cases"],
            "--size",
            "32x32x5",
            "--steps",
            "2",
            "--store",
            str(tmp_path / "store"),
        ]
        assert run(["sample", "--base", setting["base"], *arguments, *extra, "--json"]) == 0
        folder = Path(json.loads(capsys.readouterr().out)["path"]) / "videos"
        videos.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert len(videos[0]) == len(videos[1]) == 4 and videos[0] != videos[1]


def test_held_out_cases_are_measured_with_the_published_weights(call, setting, tmp_path):
    every = ["--set", "evaluation.every=1", "--set", "evaluation.finder=policy_setting:ColourFinder"]
    code, document, _ = call("--eval-cases", setting["others"], *every)
    assert code == 0, document
    rows = [json.loads(line) for line in (Path(document["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert all("eval_identity" in row for row in rows) and len({row["eval_identity"] for row in rows}) == 3
    assert document["metrics"]["eval_identity"] == rows[-1]["eval_identity"]
    videos = list((tmp_path / "store").glob("runs/*/heldout/update-*/videos/*.mp4"))
    assert len(videos) == 12 or not videos  # kept only while the run needs them


def test_held_out_clips_are_sampled_as_set(call, setting, tmp_path):
    words = ["--eval-cases", setting["others"], "--set", "evaluation.every=1", "--set", "checkpoint.keep_every=1",
             "--set", "evaluation.finder=policy_setting:ColourFinder", "--set", "evaluation.sampler.frames=5",
             "--set", "evaluation.sampler.num_steps=2"]  # fmt: skip
    code, document, _ = call(*words)
    assert code == 0, document
    rows = [json.loads(line) for line in (Path(document["path"]) / "metrics.jsonl").read_text().splitlines()]
    assert all(row["eval_num_cases"] == 4 for row in rows)
    samples = next((tmp_path / "store").glob("runs/*/heldout/update-000002/samples.jsonl")).read_text().splitlines()
    assert {json.loads(line)["sampler"]["num_steps"] for line in samples} == {2}
    assert {json.loads(line)["sampler"]["frames"] for line in samples} == {5}


def test_where_things_are_computed_makes_no_other_run(call, setting):
    plain = call()[1]["artifact"]
    again = call("--set", "engine.encoder_device=cpu", "--set", "evaluation.device=cpu")[1]
    assert again["artifact"] == plain
    assert call("--set", "reward.overlap=true")[1]["artifact"] == plain
    code, document, _ = call("--force", "--set", "engine.encoder_device=nonsense")
    assert code == 2 and "nonsense" in document["error"]["message"]


@pytest.mark.parametrize(("kind", "overlaps"), [("model", False), ("service", True), ("function", False)])
def test_clips_are_scored_beside_the_rollout_where_somebody_else_computes(kind, overlaps):
    from idgrpo.policy.recipes import recipe
    from idgrpo.stages.rewards import RewardSource
    from idgrpo.stages.train_policy import _with_overlap

    settings, rewards = recipe("default", "vace"), [RewardSource("rm", kind, "somewhere")]
    assert settings.reward.overlap is None
    assert _with_overlap(settings, rewards).reward.overlap is overlaps
    asked = settings.reward.model_copy(update={"overlap": not overlaps})
    assert _with_overlap(settings.model_copy(update={"reward": asked}), rewards).reward.overlap is not overlaps


def test_the_order_of_references_is_trained_and_told(call):
    for given, told in (((), False), (("--set", "rollout.reversed_references=true"), True)):
        code, document, _ = call("--base", "tiny-vace", *given)
        assert code == 0, document
        assert json.loads((Path(document["path"]) / "policy.json").read_text())["reversed_references"] is told


def test_the_unguided_recipe_costs_less_in_the_plan(setting, tmp_path, capsys):
    words = ["train-policy", "--base", "vace", "--cases", setting["cases"], "--store", str(tmp_path), "--dry-run"]
    tflop = {}
    for name in ("default", "unguided"):
        assert run([*words, "--recipe", name, "--gpus", "128", "--json"]) == 0
        tflop[name] = json.loads(capsys.readouterr().out)["forecast"]["sample_tflop"]
    assert tflop["unguided"] < 0.7 * tflop["default"]


def test_held_out_cases_must_not_be_trained_on(call, setting):
    code, document, _ = call("--eval-cases", setting["cases"], "--set", "evaluation.every=1",
                             "--set", "evaluation.finder=policy_setting:ColourFinder")  # fmt: skip
    assert code == 3 and "trained on as well" in document["error"]["message"]


def test_sampling_says_how_it_differs_from_training_and_can_take_its_settings(call, setting, tmp_path, capsys):
    policy = call()[1]["artifact"]
    trained = json.loads((Path(call()[1]["path"]) / "policy.json").read_text())["schedule"]
    words = ["sample", "--policy", policy, "--cases", setting["cases"], "--store", str(tmp_path / "store"), "--json"]
    capsys.readouterr()
    assert run([*words, "--steps", "2"]) == 0
    out, err = capsys.readouterr()
    assert "the policy was trained with" in err and "2 steps" in err and "--as-trained" in err
    assert run([*words, "--as-trained"]) == 0
    out, err = capsys.readouterr()
    assert "the policy was trained with" not in err
    folder = Path(json.loads(out)["path"])
    sampler = json.loads((folder / "samples.jsonl").read_text().splitlines()[0])["sampler"]
    assert sampler["num_steps"] == len(trained["sigmas"]) - 1 and sampler["shift"] == trained["shift"]
    assert run(["sample", "--base", setting["base"], *words[3:], "--as-trained"]) == 2


def test_a_decoder_of_ones_own_makes_the_clips_of_rewards_and_previews(call, tmp_path):
    own = ("--set", "rollout.decoder=policy_setting:grey", "--set", "preview.every=1")
    code, document, _ = call(*own)
    assert code == 0, document
    folder = Path(document["path"])
    assert json.loads((folder / "policy.json").read_text())["config"]["rollout"]["decoder"] == "policy_setting:grey"
    assert read_image(folder / "previews.png").float().std() > 1
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    plain = json.loads((Path(call("--force")[1]["path"]) / "metrics.jsonl").read_text().splitlines()[0])
    assert rows[0]["reward_failed_share"] == 0 and rows[0]["reward_mean"] != plain["reward_mean"]

    code, document, _ = call("--set", "rollout.decoder=policy_setting:single")
    assert code == 2 and "(2, 5, 3, 32, 32) is needed" in document["error"]["message"]
    for name, says in (("policy_setting:nobody", "cannot be imported"), ("decoder", "rollout.decoder")):
        code, document, _ = call("--set", f"rollout.decoder={name}", "--dry-run")
        assert code == 2 and says in document["error"]["message"]

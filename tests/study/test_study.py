"""A study: what its file may say, what its cells become, how its numbers are put together, and a tiny one run whole."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from idgrpo import stages
from idgrpo.cli.main import run
from idgrpo.errors import IdgrpoError, UsageError
from idgrpo.evaluate.document import MeasureInfo, Report, SampleDocument, VariantDocument
from idgrpo.stages import Source, Store
from idgrpo.study.cell import LEFT_OUT, CellOutcome, resolved
from idgrpo.study.check import KINDS, OWN, check_study
from idgrpo.study.config import StudyConfig
from idgrpo.study.run import name_of, plan, read_study, run_study
from idgrpo.study.table import Table, _number

sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))

from test_sft import write_samples

STUDIES = sorted((Path(__file__).resolve().parents[2] / "examples" / "studies").glob("*.toml"))
CHAIN = {
    "title": "Chains",
    "base": "tiny-phantom",
    "seeds": [0, 1],
    "measures": ["identity", "confusion"],
    "steps": {
        "cases": {"stage": "cases", "given": {"num": 8, "seed": "$seed"}},
        "sft": {"stage": "train_policy", "given": {"method": "sft", "data": "x.jsonl"}, "skip": True},
        "grpo": {
            "stage": "train_policy",
            "given": {"cases": "$cases", "rm": "rm/demo", "init": "$sft"},
            "settings": {"seed": "$seed"},
        },
    },
    "axes": {
        "method": {
            "grpo": {},
            "sft": {"sft": {"skip": False}, "grpo": {"skip": True}},
            "sft+grpo": {"sft": {"skip": False}, "grpo": {"settings": {"kl.reference": "start"}}},
        },
        "rate": {"low": {"grpo": {"settings": {"optimizer.lr": 1e-3}}}, "high": {}},
    },
}


GRPO = {"cases": "$cases", "rm": "rm/x"}


def test_cells_are_all_combinations_with_their_steps():
    cells = StudyConfig.model_validate(CHAIN).cells()
    assert [cell.name for cell in cells] == [
        "grpo, low", "grpo, high", "sft, low", "sft, high", "sft+grpo, low", "sft+grpo, high",
    ]  # fmt: skip
    assert [list(cell.steps) for cell in cells[::2]] == [["cases", "grpo"], ["cases", "sft"], ["cases", "sft", "grpo"]]
    assert cells[4].steps["grpo"].settings == {"seed": "$seed", "kl.reference": "start", "optimizer.lr": 1e-3}
    assert CHAIN["steps"]["grpo"]["settings"] == {"seed": "$seed"}


def test_names_of_steps_left_out_leave_the_argument_out():
    made = {"sft": "an artifact"}
    assert resolved("$sft", made, 3) == "an artifact" and resolved("$seed", made, 3) == 3
    assert resolved("$dpo|$sft", made, 3) == "an artifact" and resolved("$dpo", made, 3) is LEFT_OUT
    assert resolved(["$dpo", "$sft", "plain"], made, 3) == ["an artifact", "plain"]
    assert resolved({"mix": {"swap": 1, "other": "$dpo"}}, made, 3) == {"mix": {"swap": 1}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": {"a": {"stage": "train_policy", "given": {"rm": "$later"}}}, "axes": {}}, r"\$later is no earlier step"),
        ({"axes": {"a": {"x": {"nothing": {}}}}}, "there is no step 'nothing'"),
        ({"axes": {"a": {"x": {"grpo": {"skip": True}}}}}, "no step trains a policy"),
        ({"claims": [{"text": "t", "better": {"method": "ppo"}, "worse": {}}]}, "axis method has no value 'ppo'"),
        ({"seeds": [0, 1, 0]}, "seeds: 0 is there twice"),
        ({"seeds": [True]}, "(?s)seeds.0.*valid integer"),
        ({"seeds": [-1]}, "(?s)seeds.0.*greater than or equal to 0"),
        ({"steps": CHAIN["steps"] | {"seed": {"stage": "cases"}}}, r"steps.seed: \$seed stands for the seed"),
        ({"claims": [{"text": "t", "better": {"rate": "low"}, "worse": {"rate": "low"}}]}, "better and worse are the same"),
        ({"steps": CHAIN["steps"] | {"x": {"stage": "cases", "given": {"split": "a/$seed"}}}}, r"'a/\$seed': \$NAME stands alone"),
        ({"figures": ["rm.accuracy"]}, r"'rm.accuracy' is no step.metric \(steps: cases, sft, grpo\)"),
        ({"figures": ["grpo"]}, "'grpo' is no step.metric"),
        ({"claims": [{"text": "t", "measure": "margin", "better": {"rate": "low"}, "worse": {}}]}, "not among the measures"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        StudyConfig.model_validate(CHAIN | change)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"stage": "train_policy", "settings": {"num_update": 3}}, "(?s)cell 'default', step p: .*did you mean 'num_updates'"),
        ({"stage": "train_policy", "given": {"reward": "rm"}}, "train_policy has no argument 'reward'"),
        ({"stage": "train_policy", "given": {"name": "x"}}, "step p: given.name: the study gives it"),
        ({"stage": "train_policy", "given": {"settings": {"num_updates": 2}}}, "given.settings: the study gives it"),
        ({"stage": "train_policy", "given": {"base": "tiny-vace"}}, "compared with the study's base tiny-phantom"),
        ({"stage": "train_policy", "given": {"method": "dpo"}, "settings": {"clips.guidance": 1.0}}, "only num_per_update"),
        ({"stage": "train_policy", "given": {"method": "dpo", "cases": "$cases"}}, "not from --cases"),
        ({"stage": "train_policy", "given": {"method": "dpo", "rm": "rm/demo"}}, "reads no reward model"),
        ({"stage": "train_policy", "given": {"cases": 5}}, "step p: given.cases: .*got 5"),
        ({"stage": "train_policy", "given": {"resume": True}}, "step p: given.resume: the study gives it"),
        ({"stage": "cases", "given": {"num": "many"}}, "step p: given.num: input should be a valid integer .*got 'many'"),
        ({"stage": "sample", "given": {"cases": "$cases"}}, "a base or a policy to sample is missing"),
        ({"stage": "sample", "given": {"base": "tiny-phantm"}}, "tiny-phantm"),
        ({"stage": "annotate", "given": {"samples": "samples/a", "by": "oracle"}}, "given.samples: "),
        ({"stage": "annotate", "given": {"samples": ["$cases"]}}, "a study does not wait for people"),
        ({"stage": "cases", "given": {"num": -4}}, "step p: -4 cases of 2 people from seed 0 cannot be drawn"),
        ({"stage": "distort"}, "given.samples: it is not given"),
        ({"stage": "train_policy", "given": {"method": "sft", "data": "$off"}}, "given.data: every step that it names is left out"),
        ({"stage": "train_policy", "given": {"method": "sft", "data": []}}, "given.data: every step that it names is left out"),
        ({"stage": "train_policy", "given": {"cases": "$cases"}}, "given.rm: it is not given"),
        ({"stage": "train_policy", "given": {"method": "sft", "data": "$cases"}}, r"given.data: \$cases is of kind cases; it takes samples or pref"),
        ({"stage": "train_policy", "given": {"cases": "$cases", "rm": "rm/x", "init": "$cases"}}, r"\$cases is of kind cases; it takes policy"),
        ({"stage": "train_policy", "given": {"method": "sft"}, "settings": {"method": "dpo"}}, "settings say method dpo, the call says"),
        ({"stage": "train_policy", "given": GRPO, "settings": {"rollout.decoder": "nope.x:y"}}, "rollout.decoder nope.x:y cannot"),
        ({"stage": "train_policy", "given": GRPO | {"rm": "identity"}}, "a measure is no reward model"),
        ({"stage": "train_policy", "given": GRPO, "settings": {"reward.weights": {"x": 1.0}}}, "names x, which is no reward"),
        ({"stage": "train_policy", "given": GRPO | {"recipe": "full", "init": "policy/x"}}, "the base's own are not kept"),
        ({"stage": "train_policy", "given": GRPO | {"eval_cases": "$cases"}}, "needs to know how often"),
        ({"stage": "train_policy", "given": GRPO, "settings": {"reward.sources": {"x": "identiti"}}}, "'identiti' is no reward"),
    ],
)  # fmt: skip
def test_every_step_of_every_cell_is_checked_before_the_first_begins(tmp_path, step, message):
    end = {"stage": "train_policy", "given": GRPO}
    steps = {"cases": {"stage": "cases"}, "off": {"stage": "cases", "skip": True}, "p": step, "end": end}
    study = StudyConfig.model_validate(CHAIN | {"steps": steps, "axes": {}})
    with pytest.raises(IdgrpoError, match=message):
        check_study(study, "s", Store(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measures": ["idntity"]}, "study, measures: there is no measure 'idntity'"),
        ({"held_out": {"settings": {"seed": 5}}}, "study, held_out.settings: the study gives the seed"),
        ({"held_out": {"settings": {"base": "tiny-vace"}}}, "study, held_out.settings: the study gives the base"),
        ({"held_out": {"settings": {"sampler.num_step": 2}}}, "(?s)study, held_out.settings: .*did you mean 'num_steps'"),
    ],
)  # fmt: skip
def test_what_cells_are_judged_by_is_checked_before_the_first_begins(tmp_path, change, message):
    """It was found only when the first cell had been trained."""
    with pytest.raises(UsageError, match=message):
        check_study(StudyConfig.model_validate(CHAIN | change), "s", Store(tmp_path))


def test_a_name_that_no_artifact_can_have_is_refused_at_once(tmp_path, capsys):
    file = tmp_path / "s.toml"
    file.write_text(TINY)
    assert run(["study", str(file), "--dry-run", "--name", "a/b"]) == 2
    assert "'a/b' cannot be a name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "lack"),
    [
        ({"cases": "cases/nope", "rm": "rm/nope"}, "step p: there is no 'cases/nope'"),
        ({"method": "sft", "data": ["x.jsonl"]}, "step p: x.jsonl: there is no such file"),
        ({"method": "dpo", "data": "preferences/nope"}, "step p: there is no 'preferences/nope'"),
    ],
)
def test_what_no_step_makes_and_the_store_lacks_is_planned_as_such_and_refused(tmp_path, given, lack):
    study = StudyConfig.model_validate(CHAIN | {"steps": {"p": {"stage": "train_policy", "given": given}}, "axes": {}})
    store = Store(tmp_path)
    told = plan(study, "s", store)
    assert [line.startswith(lack) for line in told.document["lacks"]] == [True]
    assert any(line.startswith(f"lacks   {lack}") for line in told.summary)
    with pytest.raises(IdgrpoError, match=f"study, {lack}") as error:
        run_study(study, "s", store=store)
    assert error.value.fix and not list(tmp_path.iterdir())


def test_inputs_that_are_there_are_checked_by_the_stage_itself(tmp_path):
    """Broken records, a start of another base and an update that is too large were found when the step began."""
    (tmp_path / "broken.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text('{"base": "vace"}')
    data = write_samples(tmp_path / "clips", num=2, size=(5, 32, 32))
    store = Store(tmp_path / "store")

    def lacks(given: dict, settings: dict | None = None) -> list[str]:
        step = {"stage": "train_policy", "given": given, "settings": settings or {}}
        steps = {"cases": {"stage": "cases"}, "p": step}
        return list(check_study(StudyConfig.model_validate(CHAIN | {"steps": steps, "axes": {}}), "s", store)[1])

    assert "broken.jsonl:1: field" in lacks({"method": "sft", "data": str(tmp_path / "broken.jsonl")})[0]
    start = {"cases": "$cases", "init": str(tmp_path / "policy")}
    assert "was trained on vace" in lacks(start, {"reward.sources": {"x": "identity"}})[0]
    sft = {"method": "sft", "data": str(data)}
    assert not lacks(sft, {"clips.num_per_update": 2})
    with pytest.raises(UsageError, match="step p: an update takes 500 different clips, but there are 2"):
        lacks(sft, {"clips.num_per_update": 500})


def test_judges_and_functions_are_looked_for_as_their_stage_does(tmp_path, monkeypatch):
    """A function as `rm` was taken for a tag; a judge that is none was found when the step began."""
    (tmp_path / "own_reward.py").write_text("def style(frames, references, prompt):\n    return 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    judged = {"stage": "annotate", "given": {"samples": ["$clips"], "by": "judge", "judges": ["nonsense"]}}
    clips = {"stage": "sample", "given": {"cases": "$cases", "base": "tinyworld"}}
    policy = {"stage": "train_policy", "given": {"cases": "$cases", "rm": "own_reward:style"}}
    steps = {"cases": {"stage": "cases"}, "clips": clips, "judged": judged, "policy": policy}
    _, lacks = check_study(
        StudyConfig.model_validate(CHAIN | {"steps": steps, "axes": {}}), "s", Store(tmp_path / "store")
    )
    assert len(lacks) == 1 and "nonsense" in next(iter(lacks)), lacks


def test_an_adapter_and_whole_weights_do_not_follow_each_other(tmp_path):
    first = {"stage": "train_policy", "given": {**GRPO, "recipe": "full"}}
    second = {"stage": "train_policy", "given": GRPO | {"init": "$p"}}
    study = CHAIN | {"steps": {"cases": {"stage": "cases"}, "p": first, "q": second}, "axes": {}}
    with pytest.raises(UsageError, match=r"step q: train=lora cannot go on from \$p, which has train=full"):
        check_study(StudyConfig.model_validate(study), "s", Store(tmp_path))


def test_every_argument_that_names_an_artifact_is_looked_for():
    for stage in ("cases", "sample", "distort", "annotate", "train_rm", "train_policy"):
        for key, hint in get_type_hints(getattr(stages, stage).prepare).items():
            takes_artifact = Source in get_args(hint) or any(Source in get_args(part) for part in get_args(hint))
            if takes_artifact and key not in {*OWN, "data"}:
                assert (stage, key) in KINDS, f"{stage}({key}=) may name what is not there"


def test_a_slip_in_a_file_names_the_nearest_key(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text('title = "x"\nbase = "tiny-phantom"\nseed = [0]\n[steps.p]\nstage = "train_policy"\n')
    with pytest.raises(UsageError, match="did you mean 'seeds'") as error:
        read_study(file)
    assert "examples/studies" in error.value.fix and "config show" not in error.value.fix
    with pytest.raises(UsageError, match="no.toml does not exist") as error:
        read_study(tmp_path / "no.toml")
    assert "examples/studies" in error.value.fix
    assert name_of(Path("a b/c d.toml")) == "c-d"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_is_valid_and_names_its_command(path, capsys):
    study = read_study(path)
    assert study.question and study.paper and study.claims and len(study.seeds) == 3
    assert f"idgrpo study examples/studies/{path.name}" in path.read_text(encoding="utf-8")
    assert run(["study", str(path), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"].keys() == {cell.name for cell in study.cells()}


def test_another_base_than_the_file_says(tmp_path, capsys):
    file = tmp_path / "s.toml"
    file.write_text(TINY)
    assert read_study(file, "tiny-vace").base == "tiny-vace"
    assert run(["study", str(file), "--base", "tiny-vace", "--dry-run"]) == 0
    assert "base tiny-vace" in capsys.readouterr().out
    assert run(["study", str(file), "--base", "tiny-voce", "--dry-run"]) == 2
    assert "tiny-vace" in capsys.readouterr().err


# -- the table ---------------------------------------------------------------------------------------------------------


def report_of(gains: dict[str, float], noise: np.ndarray) -> Report:
    rows = []
    for number, wobble in enumerate(noise):
        for variant in ("base", "tuned"):
            values = {m: 0.4 + (wobble + gain if variant == "tuned" else 0.0) for m, gain in gains.items()}
            rows.append(
                SampleDocument(
                    variant=variant, case_id=f"c{number}", seed=0, prompt="", video="", references=[], values=values
                )
            )
    infos = [MeasureInfo(m, m, "lower" if m == "confusion" else "higher", "identity", "") for m in gains]
    variants = [VariantDocument(name=v, base="b", policy=None, num_samples=len(noise)) for v in ("base", "tuned")]
    return Report(
        title="", finder="", headline="identity", reference_variant="base", variants=variants, num_cases=len(noise),
        num_seeds=1, measures=infos, means={}, comparisons={}, samples=rows,
    )  # fmt: skip


def test_the_table_is_means_over_seeds_with_paired_intervals_and_claims():
    claims = [
        {"text": "a low rate gains more", "better": {"rate": "low"}, "worse": {"rate": "high"}},
        {"text": "a low rate blends less", "measure": "confusion", "better": {"rate": "low"}, "worse": {"rate": "high"}},
        {"text": "GRPO gains more than SFT", "better": {"method": "grpo"}, "worse": {"method": "sft"}},
        {"text": "training gains", "better": {"method": "grpo"}, "worse": {}},
    ]  # fmt: skip
    study = StudyConfig.model_validate(CHAIN | {"claims": claims})
    cells = study.cells()
    rng, outcomes, reports = np.random.default_rng(0), [], []
    for cell in cells:
        for seed in study.seeds:
            low = cell.values["rate"] == "low"
            gains = {"identity": 0.1 + (0.05 if low else 0.0) + 0.02 * seed, "confusion": 0.03 if low else 0.01}
            outcomes.append(CellOutcome(cell.name, seed, "report/x@v1", ["policy/p@v1"], 2.0 + seed, {}))
            reports.append(report_of(gains, rng.normal(0, 0.01, 20)))
    table = Table(study, cells, outcomes, reports)
    first = table.rows[0].measures["identity"]
    assert first.gain.value == pytest.approx(0.16, abs=0.01) and first.gain.low < 0.16 < first.gain.high
    assert first.gain.num_cases == 40 and first.by_seed[1] - first.by_seed[0] == pytest.approx(0.02, abs=0.01)
    assert first.to_first is None and table.rows[1].measures["identity"].to_first.value == pytest.approx(
        -0.05, abs=0.01
    )
    assert table.rows[0].tflop == 2.5
    assert [claim.verdict for claim in table.claims] == ["confirmed", "contradicted", "open", "confirmed"]
    assert len(table.samples) == len(cells) * 2 * 20 * 2
    text = table.markdown()
    assert "identity: base -> tuned, gain | confusion: base -> tuned, change (lower is better)" in text
    assert "| grpo, low | 2.5 | 0.400 -> " in text and "a low rate blends less: contradicted" in text
    assert json.loads(json.dumps(table.document()))["cells"][0]["values"] == {"method": "grpo", "rate": "low"}


def test_several_clips_of_a_case_are_averaged_and_what_is_missing_is_null():
    """The last clip of a case stood for all of them, and study.json held NaN, which is no JSON."""
    claim = {"text": "t", "measure": "confusion", "better": {}, "worse": {}}
    study = StudyConfig.model_validate(CHAIN | {"axes": {}, "seeds": [0], "figures": ["sft.x"], "claims": [claim]})
    report = report_of({"identity": 0.1}, np.full(12, 0.0))
    again = [
        s.model_copy(update={"seed": 1, "values": {m: v + 0.2 * (s.variant == "tuned") for m, v in s.values.items()}})
        for s in report.samples
    ]
    report = report.model_copy(update={"samples": [*report.samples, *again]})
    outcome = CellOutcome("default", 0, "report/x@v1", ["policy/p@v1"], 2.0, {"sft.x": None})
    table = Table(study, study.cells(), [outcome], [report])
    assert table.rows[0].measures["identity"].gain.value == pytest.approx(0.2)  # of 0.1 and 0.3
    assert len(table.samples) == 12
    assert "t: not decided (no case has a value of confusion)." in table.markdown()
    assert json.dumps(table.document(), allow_nan=False)


def test_counts_and_accuracies_are_written_as_such():
    assert [_number(x) for x in (1280.0, 0.8754, 1.0, None)] == ["1280", "0.875", "1", ""]


# -- one run whole -----------------------------------------------------------------------------------------------------

TINY = """
title = "Rates"
question = "Does the rate matter?"
base = "tiny-phantom"
seeds = [0, 1]
measures = ["identity", "separation"]

[steps.cases]
stage = "cases"
given = {num = 6, seed = "$seed"}

[steps.clips]
stage = "sample"
given = {cases = "$cases", base = "tinyworld"}

[steps.sft]
stage = "train_policy"
given = {method = "sft", data = "$clips"}
settings = {num_updates = 1, "seed" = "$seed", "clips.num_per_update" = 4, "clips.guidance" = 0.0, "lora.rank" = 2}

[axes.rate.small]
[axes.rate.large.sft.settings]
"optimizer.lr" = 1e-2

[held_out]
num = 2
settings = {"sampler.num_steps" = 2}

[[claims]]
text = "a large rate gains more"
better = {rate = "large"}
worse = {rate = "small"}
"""


@pytest.mark.timeout(600)
def test_a_tiny_study_runs_whole_and_a_second_call_finds_everything(tmp_path, capsys):
    file = tmp_path / "rates.toml"
    file.write_text(TINY)
    words = ["study", str(file), "--store", str(tmp_path / "store"), "--json"]
    assert run(words) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["artifact"] == "report/rates@v1" and len(told["runs"]) == 4
    assert "[4/4] large, seed 1" in err
    folder = Path(told["path"])
    assert {path.name for path in folder.iterdir()} >= {"study.json", "table.md", "study.png", "rows.jsonl"}
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert {row["cell"] for row in rows} == {"small", "large"} and all(np.isfinite(row["tuned"]) for row in rows)
    assert all(cell["tflop"] > 0 for cell in told["cells"])
    versions = lambda kind, step: len(list((tmp_path / "store").glob(f"artifacts/{kind}/rates-{step}/v*")))  # noqa: E731
    assert versions("samples", "clips") == 2 and versions("policy", "sft") == 4  # cells share what does not differ
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest["inputs"]) == 4 and all(
        entry["ref"].startswith("report/") for entry in manifest["inputs"].values()
    )
    assert tomllib.loads(TINY)["title"] == manifest["config"]["study"]["title"]
    assert run(words) == 0
    assert json.loads(capsys.readouterr().out)["artifact"] == "report/rates@v1"
    assert versions("policy", "sft") == 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_make_the_same_study(tmp_path, capsys):
    file = tmp_path / "rates.toml"
    file.write_text(TINY)
    told = []
    for nproc in (1, 2):
        words = ["study", str(file), "--store", str(tmp_path / f"store-{nproc}"), "--nproc", str(nproc), "--json"]
        assert run(words) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["cells"] == told[1]["cells"] and told[0]["claims"] == told[1]["claims"]


def is_empty_soon(group: int) -> bool:
    """Tell whether a group of processes ends: multiprocessing's own helper does so a moment after us."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("nproc", [1, 2])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_study_that_is_stopped_or_killed_leaves_nobody_behind_and_goes_on(tmp_path, how, nproc):
    file, store = tmp_path / "rates.toml", tmp_path / "store"
    file.write_text(TINY)
    words = [sys.executable, "-m", "idgrpo", "study", str(file), "--store", str(store), "--nproc", str(nproc), "--json"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not list(store.glob("artifacts/policy/rates-sft/v*")):
        time.sleep(0.05)
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    assert process.returncode == (75 if how == signal.SIGTERM else -how) and "Traceback" not in err, err
    assert is_empty_soon(process.pid)
    made = {path: path.stat().st_mtime_ns for path in store.glob("artifacts/policy/rates-sft/v*/manifest.json")}
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0 and "torchao" not in found.stderr, found.stderr
    assert len(json.loads(found.stdout)["runs"]) == 4
    assert all(path.stat().st_mtime_ns == before for path, before in made.items())


CHAIN_OF_ALL = """
title = "A reward model of the study's own"
base = "tiny-phantom"
seeds = [0]
measures = ["identity"]

[steps.cases]
stage = "cases"
given = {num = 8, seed = "$seed"}

[steps.clips]
stage = "sample"
given = {cases = "$cases", base = "tinyworld"}

[steps.damaged]
stage = "distort"
given = {samples = "$clips"}
settings = {"people.finder" = "tiny", seed = "$seed"}

[steps.rm]
stage = "train_rm"
given = {preferences = "$damaged"}
settings = {"head.epochs" = 1, "data.test_share" = 0.0}

[steps.policy]
stage = "train_policy"
given = {cases = "$cases"}
settings = {num_updates = 1, "group.num_cases" = 2, "group.size" = 2, "lora.rank" = 2, "advantage.hold" = 0.0, "reward.sources" = {people = "$rm"}}

[held_out]
num = 2
settings = {"sampler.num_steps" = 2}
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_settings_may_name_what_a_step_made(tmp_path, capsys):
    file = tmp_path / "own.toml"
    file.write_text(CHAIN_OF_ALL)
    assert run(["study", str(file), "--store", str(tmp_path / "store"), "--json"]) == 0
    (policy,) = json.loads(capsys.readouterr().out)["runs"][0]["policies"]
    inputs = Store(tmp_path / "store").resolve(policy).manifest.inputs
    assert inputs["reward.people"].ref == "rm/own-rm@v1"

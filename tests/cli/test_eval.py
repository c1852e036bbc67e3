"""`idgrpo eval` through the command line: every way in, gates, refusals, and what stays on stdout."""

import json
import sys
from xml.etree import ElementTree

import pytest
from tests.evaluate.conftest import PlantedFinder, make_samples  # noqa: F401

from idgrpo.cli.main import run
from idgrpo.records.jsonl import write_records
from idgrpo.records.models import Case

FINDER = f"{PlantedFinder.__module__}:{PlantedFinder.__name__}"
BASE = ["swapped halves", "missing person", "duplicate", "replaced"]
TUNED = ["faithful", "faithful", "missing person", "faithful"]
FAST = ["--finder", FINDER, "--set", "statistics.num_resamples=300"]


@pytest.fixture
def world(make_samples, tmp_path, monkeypatch):  # noqa: F811
    """Samples of base and tuned in files, in an empty store."""
    monkeypatch.setenv("IDGRPO_STORE", str(tmp_path / "store"))
    for name, scripts in (("base", BASE), ("tuned", TUNED)):
        samples = make_samples(name, scripts)
        write_records(tmp_path / f"{name}.jsonl", samples)
    # All cases share two portraits, and cases say that one portrait is one person.
    named = [[r.model_copy(update={"person": r.person[0]}) for r in s.references] for s in samples]
    cases = [Case(id=s.case_id, prompt=s.prompt, references=r) for s, r in zip(samples, named, strict=True)]
    write_records(tmp_path / "cases.jsonl", cases)
    return tmp_path


def both(world):
    return ["--samples", f"base={world}/base.jsonl", "--samples", f"tuned={world}/tuned.jsonl"]


def evaluate(capsys, *arguments):
    code = run(["eval", *FAST, *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_two_files_of_samples_give_a_report(world, capsys):
    code, out, _ = evaluate(capsys, *both(world), "--json")
    document = json.loads(out)
    assert code == 0
    assert document["comparisons"]["tuned"]["identity"]["base"] == pytest.approx(0.5, abs=1e-6)
    assert document["comparisons"]["tuned"]["identity"]["tuned"] == pytest.approx(0.875, abs=1e-6)
    for key in ("report", "contact_sheet"):
        assert (world / document[key]).stat().st_size > 1000


def test_the_same_evaluation_is_not_done_twice(world, capsys):
    first = evaluate(capsys, *both(world), "--quiet")[1]
    again = evaluate(capsys, *both(world), "--quiet")[1]
    anew = evaluate(capsys, *both(world), "--quiet", "--force")[1]
    assert first == again == "report/eval@v1\n"
    assert anew == "report/eval@v2\n"


def test_the_digest_does_not_depend_on_the_command_that_was_typed(world, capsys, monkeypatch):
    """The page shows the command; two processes and one gave reports of two digests."""
    digests = set()
    for typed in (["eval"], ["eval", "--force", "--nproc", "2"]):
        monkeypatch.setattr(sys, "argv", ["idgrpo", *typed])
        code, out, _ = evaluate(capsys, *both(world), "--force", "--json")
        assert code == 0
        document = json.loads(out)
        assert "idgrpo " + " ".join(typed) in (world / document["report"]).read_text(encoding="utf-8")
        digests.add(document["digest"])
    assert len(digests) == 1


def test_gates_decide_the_exit_code_and_say_why(world, capsys):
    xml = world / "out" / "junit.xml"
    assert evaluate(capsys, *both(world), "--min", "identity=0.8", "--max", "swap_rate=0.1")[0] == 0
    code, out, err = evaluate(capsys, *both(world), "--min", "identity=0.95", "--junit", xml, "--json")
    assert code == 1
    assert "identity of tuned is 0.8750, at least 0.95 is asked" in err
    assert json.loads(out)["exit_code"] == 1
    assert ElementTree.parse(xml).getroot().attrib["failures"] == "1"


def test_a_regression_against_an_earlier_report_fails(world, capsys):
    evaluate(capsys, *both(world), "--name", "good")
    swapped = ["--samples", f"base={world}/tuned.jsonl", "--samples", f"tuned={world}/base.jsonl"]
    code, _, err = evaluate(capsys, *swapped, "--name", "bad", "--compare", "report/good")
    assert code == 1
    assert "identity of tuned: 0.8750 before, 0.5000 now" in err
    assert evaluate(capsys, *both(world), "--name", "good", "--compare", "report/good")[0] == 0


def test_videos_of_any_tool_are_matched_to_cases_by_name(world, capsys):
    folder = world / "theirs"
    folder.mkdir()
    for index in range(4):
        (folder / f"case-{index:03d}--s0.mp4").write_bytes((world / "tuned" / f"{index:03d}-0.mp4").read_bytes())
    arguments = [
        "--samples",
        f"base={world}/base.jsonl",
        "--videos",
        f"theirs={folder}",
        "--cases",
        world / "cases.jsonl",
    ]
    code, out, err = evaluate(capsys, *arguments, "--json")
    assert code == 0 and "was changed" not in err
    assert json.loads(out)["comparisons"]["theirs"]["identity"]["tuned"] == pytest.approx(0.875, abs=1e-6)
    (folder / "holiday.mp4").write_bytes(b"x")
    code, _, err = evaluate(capsys, *arguments)
    assert code == 3
    assert "holiday.mp4" in err


def test_curves_come_from_a_file(world, capsys):
    (world / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "reward_mean": i / 9}) + "\n" for i in range(9))
    )
    code, out, _ = evaluate(capsys, *both(world), "--curves", f"run={world}/metrics.jsonl", "--json")
    assert code == 0
    assert "reward mean" in (world / json.loads(out)["report"]).read_text()


def test_dry_run_writes_nothing(world, capsys):
    code, out, _ = evaluate(capsys, *both(world), "--dry-run")
    assert code == 0
    assert "base: 4 videos" in out
    assert not (world / "store" / "artifacts").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "nothing to evaluate"),
        (["--policy", "p"], 2, "--policy needs --base"),
        (["--samples", "{w}/base.jsonl", "--samples", "base={w}/tuned.jsonl"], 2, "two variants"),
        (["--samples", "{w}/base.jsonl", "--min", "identity"], 2, "not measure=number"),
        (["--samples", "{w}/base.jsonl", "--min", "identty=1"], 2, "no measure 'identty'"),
        (["--samples", "{w}/base.jsonl", "--max", "reward=1"], 2, "no measure 'reward'"),
        (["--samples", "{w}/base.jsonl", "--set", "statistics.levl=0.9"], 2, "level"),
        (["--samples", "{w}/base.jsonl", "--scorer", "nonsense"], 2, "unknown scorer"),
        (["--samples", "nowhere@v3"], 4, "nowhere"),
        (["--samples", "{w}/bad.jsonl"], 3, "bad.jsonl:1"),
        (
            ["--samples", "{w}/base.jsonl", "--videos", "x={w}/none", "--cases", "{w}/cases.jsonl"],
            3,
            "no folder of videos",
        ),
        (["--samples", "{w}/base.jsonl", "--compare", "{w}/bad.jsonl"], 3, "not a report"),
    ],
)
def test_wrong_input_is_named(world, capsys, arguments, code, text):
    (world / "bad.jsonl").write_text('{"id": 3}\n')
    found, _, err = evaluate(capsys, *[a.format(w=world) for a in arguments])
    assert found == code
    assert text in err


def test_a_video_that_is_none_is_named(world, capsys):
    (world / "base" / "002-0.mp4").write_bytes(b"not a video")
    code, out, err = evaluate(capsys, *both(world), "--json")
    assert code == 3
    assert "002-0.mp4" in err
    assert json.loads(out)["exit_code"] == 3


def test_the_implied_win_rate_follows_the_reward_models_own_loss(world, capsys):
    def law(loss: dict | None, *more: str) -> dict:
        folder = world / "rm"
        folder.mkdir(exist_ok=True)
        card = {"schema": 1, **({"config": {"loss": loss}} if loss else {})}
        (folder / "reward.json").write_text(json.dumps(card))
        code, out, _ = evaluate(capsys, *both(world), "--reward", folder, "--dry-run", "--json", *more)
        assert code == 0
        return json.loads(out)["config"]["pair_law"]

    loss = {"name": "rao_kupper", "theta": 2.0, "nu": 1.0, "margin": 1.0, "both_bad": "tie"}
    assert law(loss) == {"loss": "rao_kupper", "theta": 2.0, "nu": 1.0}
    assert law({**loss, "name": "davidson", "nu": 3.0})["loss"] == "davidson"
    assert law(None) == {"loss": "rao_kupper", "theta": 5.0, "nu": 1.0}  # an imported model
    assert law(loss, "--set", "pair_law.theta=7")["theta"] == 7.0

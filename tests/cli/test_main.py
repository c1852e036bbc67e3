import json
import os
import resource
import subprocess
import sys

import pytest

from idgrpo.cli import COMMANDS
from idgrpo.cli.main import run
from idgrpo.store.store import Store

MAX_HELP_CPU_S = 0.7


def test_help_names_every_command_quickly_and_without_torch():
    code = (
        "import sys\nfrom idgrpo.cli.main import run\nassert run(['--help']) == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'av', 'numpy', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < MAX_HELP_CPU_S


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_imports_no_torch(name):
    code = f"import sys\nfrom idgrpo.cli.main import run\nassert run([{name!r}, '--help']) == 0\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_wrong_commands_and_options_exit_2_and_name_the_nearest(capsys):
    assert run(["smaple"]) == 2
    assert "did you mean 'sample'?" in capsys.readouterr().err
    assert run(["sample", "--sede", "3"]) == 2
    assert "--seed" in capsys.readouterr().err
    assert run([]) == 2


def test_errors_are_also_documents(capsys):
    assert run(["train-rm", "--data", "/none.jsonl", "--json"]) in (3, 4)
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["exit_code"] in (3, 4) and document["error"]["message"]
    assert captured.err.startswith("error: ")


@pytest.mark.parametrize(
    "said", ["Read error [127.0.0.1]:15793: Connection reset by peer", "Connection closed by peer [::1]:9"]
)
def test_a_rank_that_has_gone_is_told_without_a_traceback(said, monkeypatch, capsys):
    def lose(name):
        raise RuntimeError(
            f"[gloo/transport/tcp/pair.cc:545] {said}. This is typically caused by a remote worker hanging"
        )

    monkeypatch.setattr("idgrpo.cli.main.load_command", lose)
    assert run(["sample", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "IdgrpoError" and said in error["message"] and "remote worker" not in error["message"]
    assert "run the same command again" in error["fix"]


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("idgrpo ")


@pytest.mark.parametrize("rank", [["--local_rank=1"], ["--local_rank", "1"], []])
def test_the_local_rank_of_the_deepspeed_launcher_is_no_command(capsys, rank):
    assert run([*rank, "--version"]) == 0
    assert capsys.readouterr().out.startswith("idgrpo ")
    assert run([*rank, "config", "show", "train-policy"]) == 0
    assert run(rank) == 2  # and nothing is no command still


def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "idgrpo", "config", "show", "train-policy"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in process.stderr.read()


def test_a_full_disk_exits_6(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "x.mp4")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "t.toml").write_text("seed = 1")
    store = Store(tmp_path / "store")

    monkeypatch.setattr(
        "idgrpo.cli.main._dispatch", lambda _: store.publish("rm", "x", inputs={}, config={}).__enter__() and full()
    )
    assert run(["sample"]) == 6
    assert "disk is full while writing x.mp4" in capsys.readouterr().err


def test_artifacts_are_listed_shown_traced_checked_and_tagged(tmp_path, capsys):
    store = Store(tmp_path)
    with store.publish("cases", "c", inputs={}, config={"num": 3}) as draft:
        (draft.path / "cases.jsonl").write_text("{}\n")
    with store.publish("rm", "r", inputs={"cases": draft.artifact}, config={"a": {"b": 1}}) as made:
        (made.path / "w").write_text("x")
    where = ["--store", str(tmp_path)]
    assert run(["artifacts", "list", *where, "--quiet"]) == 0
    assert capsys.readouterr().out.split() == ["cases/c@v1", "rm/r@v1"]
    assert run(["artifacts", "show", "rm", *where]) == 0
    assert "config   a.b = 1" in capsys.readouterr().out
    assert run(["artifacts", "lineage", "rm", *where, "--json"]) == 0
    assert [step["ref"] for step in json.loads(capsys.readouterr().out)["lineage"]] == ["rm/r@v1", "cases/c@v1"]
    assert run(["artifacts", "tag", "rm", "best", *where]) == 0
    capsys.readouterr()
    assert run(["artifacts", "show", "rm:best", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ref"] == "rm/r@v1"
    assert run(["artifacts", "verify", *where]) == 0
    (made.artifact.path / "w").write_text("y")
    assert run(["artifacts", "verify", *where]) == 4
    assert "content of w has changed" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["annotate", "distort", "train-rm", "train-policy", "sample", "eval"])
def test_what_config_shows_is_a_file_that_config_accepts(stage, tmp_path, capsys):
    assert run(["config", "show", stage]) == 0
    file = tmp_path / "c.toml"
    file.write_text(capsys.readouterr().out)
    assert run(["config", "check", stage, str(file)]) == 0
    file.write_text("sed = 1\n")
    capsys.readouterr()
    assert run(["config", "check", stage, str(file)]) == 2
    assert "sed: there is no such key" in capsys.readouterr().err


def test_doctor_knows_machine_and_bases(capsys):
    code = run(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    names = {row["what"] for row in document["checks"]}
    assert {"python", "disk", "torch", "libx264", "base vace", "base tiny-phantom"} <= names
    assert code == document["exit_code"]

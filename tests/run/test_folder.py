import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from idgrpo.errors import BusyError, MachineError, StoppedError, UsageError
from idgrpo.run.checkpoint import Checkpoints
from idgrpo.run.draws import generator, seed_of
from idgrpo.run.flatten import flatten
from idgrpo.run.folder import RunFolder
from idgrpo.run.metrics import MetricsLog
from idgrpo.run.progress import progress
from idgrpo.run.signals import StopSignal


def test_draws_depend_on_every_part_and_nothing_else():
    assert seed_of("noise", 1, 2) == seed_of("noise", 1, 2)
    assert (
        len({seed_of("a", 1), seed_of("a", "1"), seed_of("a1"), seed_of(1, "a"), seed_of("a", 11), seed_of("a", 1, 1)})
        == 6
    )
    assert 0 <= seed_of("x") < 2**63
    import torch

    assert torch.equal(torch.rand(3, generator=generator("x", 1)), torch.rand(3, generator=generator("x", 1)))


def test_a_second_process_on_the_same_run_is_refused(tmp_path):
    code = f"from pathlib import Path\nfrom idgrpo.run.folder import RunFolder\nwith RunFolder.open(Path({str(tmp_path)!r}), {{}}): pass"
    with RunFolder.open(tmp_path, {}):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "BusyError" in done.stderr
        with pytest.raises(BusyError), RunFolder.open(tmp_path, {}):
            pass
    with RunFolder.open(tmp_path, {}):
        pass


def test_the_card_of_a_run_says_what_decides_it(tmp_path):
    with RunFolder.open(tmp_path, {"config": {"lr": 1}}):
        assert json.loads((tmp_path / "run.json").read_text()) == {"config": {"lr": 1}}


def test_a_removed_run_is_gone_and_can_be_begun_again(tmp_path):
    with RunFolder.open(tmp_path / "run", {}) as run:
        (run.path / "work").mkdir()
        (run.path / "work" / "clip").write_text("x")
        run.remove()
        assert not (tmp_path / "run").exists()
        with RunFolder.open(tmp_path / "run", {}) as again:  # its lock is another file than the one held above
            assert again.path.is_dir()
            with pytest.raises(BusyError), RunFolder.open(tmp_path / "run", {}):
                pass


def test_checkpoints_appear_whole_and_old_ones_go(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every=10)
    for step in (0, 5, 10, 15, 20, 25):
        checkpoints.save(step, lambda folder, step=step: (folder / "x").write_text(str(step)), {"counter": step})
    assert checkpoints.steps() == [0, 10, 20, 25]
    latest = checkpoints.latest()
    assert latest.step == 25 and latest.state["counter"] == 25 and (latest.path / "x").read_text() == "25"

    def broken(folder):
        (folder / "x").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.save(30, broken, {})
    assert checkpoints.steps() == [0, 10, 20, 25]
    assert not list(tmp_path.glob(".draft-*"))


@pytest.mark.parametrize("name", ["x", "state.json", "sealed.json"])
@pytest.mark.parametrize("damaged", [lambda old: old[:-1], lambda old: old[:-2] + b"~" + old[-1:], None])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, name, damaged, capsys):
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for step in (1, 2):
        checkpoints.save(step, lambda folder, step=step: (folder / "x").write_text(f"weights {step}"), {"n": step})
    assert checkpoints.latest().state["n"] == 2
    file = tmp_path / "step-000002" / name
    if damaged is None:
        file.unlink()
    else:
        file.write_bytes(damaged(file.read_bytes()))
    assert Checkpoints(tmp_path).latest().state["n"] == 1  # as the process does that goes on
    assert f"the checkpoint {tmp_path / 'step-000002'} is not used" in capsys.readouterr().err


def test_saving_a_step_again_never_leaves_the_run_without_it(tmp_path):
    code = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from idgrpo.run.checkpoint import Checkpoints
        c = Checkpoints(Path({str(tmp_path)!r}))
        c.save(1, lambda f: (f / "w").write_text("old"), {{}})
        rename, calls = os.rename, []
        def dying(source, target):
            calls.append(target)
            if len(calls) == KILL_AT:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)
        os.rename = dying
        c.save(1, lambda f: (f / "w").write_text("new"), {{}})
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    for kill_at, expected in ((1, "old"), (2, "old"), (3, "new")):
        done = subprocess.run([sys.executable, "-c", code.replace("KILL_AT", str(kill_at))], check=False)
        assert done.returncode == -signal.SIGKILL
        checkpoints = Checkpoints(tmp_path)
        assert checkpoints.steps() == [1]
        assert (checkpoints.latest().path / "w").read_text() == expected
        checkpoints.save(2, lambda folder: None, {})
        assert checkpoints.steps() == [1, 2]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]
        shutil.rmtree(tmp_path / "step-000001")
        shutil.rmtree(tmp_path / "step-000002")


def test_the_log_is_on_disk_before_a_checkpoint_counts(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(handle):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def note_rename(source, target):
        events.append("published")
        rename(source, target)

    with RunFolder.open(tmp_path, {}) as run:
        run.checkpoints.save(0, lambda folder: None, {})  # a run without figures has no log yet
        run.metrics.log(1, loss=0.5)
        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "rename", note_rename)
        run.checkpoints.save(1, lambda folder: None, {})
    assert "metrics.jsonl" in events[: events.index("published")]


def test_a_checkpoint_that_will_not_fit_is_refused_before_it_is_written(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, lambda folder: (folder / "w").write_text("x" * 3000), {})
    monkeypatch.setattr("idgrpo.run.machine.free_disk_bytes", lambda path: 2000)
    with pytest.raises(MachineError, match=r"the disk has 0 MiB left") as caught:
        checkpoints.save(2, lambda folder: pytest.fail("nothing may be written"), {})
    assert caught.value.exit_code == 6
    assert checkpoints.steps() == [1]


def test_metrics_are_truncated_to_the_checkpoint_and_torn_lines_ignored(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(5):
        log.log(step, loss=step / 2, bad=float("nan"))
    with log.path.open("a") as file:
        file.write('{"step": 5, "lo')
    assert [row["step"] for row in log.read(log.path)] == [0, 1, 2, 3, 4]
    log.log(6, loss=1.0)  # a torn line costs itself, not the one after it
    assert [row["step"] for row in log.read(log.path)] == [0, 1, 2, 3, 4, 6]
    log.path.write_bytes(log.path.read_bytes().replace(b'{"step": 1,', b'{"step\xff 1,'))
    assert [row["step"] for row in log.read(log.path)] == [0, 2, 3, 4, 6]
    log.truncate_after(2)
    assert [row["step"] for row in log.read(log.path)] == [0, 2]
    assert next(log.read(log.path))["bad"] == "nan"


def test_a_signal_asks_and_the_loop_stops():
    with StopSignal() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError) as caught:
            stop.check()
    assert caught.value.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_progress_without_a_terminal_writes_lines_to_stderr_only(capsys, monkeypatch):
    monkeypatch.setattr("idgrpo.run.progress.LINE_EVERY_S", 0.0)
    with progress(4, "work", unit="clips") as bar:
        for _ in range(4):
            bar.advance(1, loss=0.5)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "work: 4/4 clips" in captured.err and "loss 0.5" in captured.err


def test_flatten():
    assert dict(flatten({"a": {"b": 1, "c": {"d": 2}}, "e": {}})) == {"a.b": 1, "a.c.d": 2, "e": {}}


def test_a_kill_between_checkpoints_leaves_the_last_one(tmp_path):
    code = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from idgrpo.run.checkpoint import Checkpoints
        c = Checkpoints(Path({str(tmp_path)!r}))
        c.save(1, lambda f: (f / "w").write_text("1"), {{}})
        def die(folder):
            (folder / "w").write_text("2")
            os.kill(os.getpid(), signal.SIGKILL)
        c.save(2, die, {{}})
        """
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert Checkpoints(tmp_path).latest().step == 1


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"), RunFolder.open(tmp_path / "file", {}):
        pass


def test_a_stop_in_the_last_moment_of_a_stage_reaches_the_loop_around_it():
    with StopSignal() as around:
        with StopSignal() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner.requested and around.requested
        with pytest.raises(StoppedError):
            around.check()
    with StopSignal() as again:
        assert not again.requested

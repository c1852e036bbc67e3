"""One piece of work: found, or locked, resumed, published and cleaned up; a changed input is another run."""

import json
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from idgrpo.errors import BusyError, StoppedError, UsageError
from idgrpo.run.distributed import World
from idgrpo.run.folder import RunFolder
from idgrpo.stages import work as work_module
from idgrpo.stages.source import find
from idgrpo.stages.work import Plan, Work
from idgrpo.store.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1")
    return folder


def work_on(store, model, make=None, **options) -> Work:
    """Copy the model's weights; `steps` in the run's folder counts how often the work was begun there."""

    def copy(run) -> None:
        steps = run.path / "steps"
        steps.write_text(f"{int(steps.read_text()) + 1 if steps.exists() else 1}")
        (run.out.path / "weights").write_text((model / "weights").read_text())
        (run.out.path / "steps").write_text(steps.read_text())

    inputs = {"rm": find(store, "rm", model)}
    return Work(store, "copy", "rm", "copied", inputs, {"a": 1}, make or copy, lambda: Plan([], {}), **options)


def stop(run) -> None:
    (run.path / "steps").write_text("7")
    raise StoppedError("stopped")


def test_what_exists_is_found_and_force_makes_it_anew(store, model):
    first = work_on(store, model).run()
    assert work_on(store, model).run() == first and first.manifest.config == {"a": 1}
    assert first.manifest.inputs["rm"].ref == str(model)
    again = work_on(store, model, force=True).run()
    assert again.version == 2 and again.digest == first.digest
    assert not list((store.root / "runs").iterdir()), "a published run leaves nothing"


def test_a_stopped_run_goes_on_and_force_starts_it_afresh_unless_it_is_to_resume(store, model):
    for options, begun in (({}, "8"), ({"force": True}, "1"), ({"force": True, "resume": True}, "8")):
        with pytest.raises(StoppedError):
            work_on(store, model, stop, **options).run()
        assert (work_on(store, model, **options).run().path / "steps").read_text() == begun


def test_an_edited_input_is_another_run_and_the_old_one_can_go_on(store, model):
    with pytest.raises(StoppedError):
        work_on(store, model, stop).run()
    (model / "weights").write_text("2")
    new = work_on(store, model).run()
    assert (new.path / "weights").read_text() == "2" and (new.path / "steps").read_text() == "1"
    (model / "weights").write_text("1")
    old = work_on(store, model).run()
    assert (old.path / "weights").read_text() == "1" and (old.path / "steps").read_text() == "8"
    assert old.manifest.inputs["rm"].digest != new.manifest.inputs["rm"].digest


def test_an_input_edited_during_the_work_is_recorded_as_it_was_read(store, model, capsys):
    def edit(run) -> None:
        (run.out.path / "weights").write_text((model / "weights").read_text())
        (model / "weights").write_text("edited meanwhile")

    made = work_on(store, model, edit).run()
    assert "changed during the work" in capsys.readouterr().err
    assert work_on(store, model).run() != made, "the edited input is another one"
    (model / "weights").write_text("1")
    assert work_on(store, model).run() == made


def test_a_second_process_is_refused_and_a_finished_one_answers_it(store, model):
    work = work_on(store, model)
    with RunFolder.open(work.folder, {}), pytest.raises(BusyError):
        work.run()
    made = work.run()
    assert work_on(store, model).run() == made


def test_a_name_that_cannot_be_is_refused_before_the_work(store, model):
    inputs = {"rm": find(store, "rm", model)}
    for name in ("../x", "", ".hidden", "a" * 200, "a/b"):
        with pytest.raises(UsageError, match="cannot be a name"):
            Work(store, "copy", "rm", name, inputs, {}, stop, lambda: Plan([], {}))


def test_hidden_files_and_measured_times_stay_out_of_the_digest(store, model):
    def make(run, time: str) -> None:
        (run.out.path / "weights").write_text("w")
        (run.out.path / ".weights.part").write_text("half")
        (run.out.path / "metrics.jsonl").write_text(json.dumps({"seconds": time}))
        run.out.timed.add("metrics.jsonl")

    one, two = (work_on(store, model, lambda run, t=t: make(run, t), force=True).run() for t in ("1", "2"))
    assert one.digest == two.digest and set(one.manifest.files) == {"weights", "metrics.jsonl"}
    assert one.manifest.timed == ("metrics.jsonl",)
    one.verify()
    (one.path / "metrics.jsonl").write_text("{}")
    with pytest.raises(Exception, match="metrics.jsonl"):
        one.verify()


def test_a_kill_between_publishing_and_cleaning_up_is_cleaned_up_by_the_next_call(store, model):
    made = work_on(store, model, forget=lambda folder: None).run()
    work = work_on(store, model)
    assert work.folder.is_dir()
    assert work.run() == made and not work.folder.exists()


def test_ranks_agree_on_what_is_made_and_all_get_it(store, model, tmp_path):
    """Two processes of one job: one publishes, both work, both are given the artifact; the second time it is found."""
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            from pathlib import Path
            from idgrpo.stages.source import find
            from idgrpo.stages.work import Plan, Work
            from idgrpo.store.store import Store

            def make(run):
                (run.path / f"rank-{{run.world.rank}}").write_text("was here")
                run.world.barrier()
                if run.publishes:
                    names = sorted(path.name for path in run.path.glob("rank-*"))
                    (run.out.path / "ranks").write_text(" ".join(names))

            store = Store({str(store.root)!r})
            work = Work(store, "job", "rm", "ranks", {{"rm": find(store, "rm", {str(model)!r})}}, {{}}, make, lambda: Plan([], {{}}), ranks="together")
            artifact = work.run()
            Path(sys.argv[1]).with_suffix(f".{{work is not None and __import__('os').environ['RANK']}}").write_text(artifact.ref)
            """
        )
    )
    import os
    import socket

    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = [
            subprocess.Popen(
                [sys.executable, str(script), str(tmp_path / "told")],
                env=os.environ
                | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            )
            for rank in range(2)
        ]
        assert [process.wait(timeout=120) for process in ranks] == [0, 0]
        assert {(tmp_path / f"told.{rank}").read_text() for rank in range(2)} == {"rm/ranks@v1"}
    assert (store.resolve("rm/ranks").path / "ranks").read_text() == "rank-0 rank-1"


def shared_work(store, model, made_by: list, **options) -> Work:
    """Make six files, dealt out; the artifact is their list."""

    def make(run) -> None:
        items = [run.path / f"item-{number}" for number in range(6)]
        for item in run.dealing.share(items, lambda item: item.name, Path.exists, label="make"):
            time.sleep(0.2)
            made_by.append(threading.get_ident())
            item.write_text("made")
        if run.publishes:
            (run.out.path / "weights").write_text(" ".join(item.name for item in items))

    options = {"share": True, "ranks": "deal"} | options
    return Work(
        store, "many", "rm", "many", {"rm": find(store, "rm", model)}, {}, make, lambda: Plan([], {}), **options
    )


def test_processes_that_share_a_run_make_it_together_and_all_get_it(store, model, monkeypatch):
    monkeypatch.setattr(work_module, "WAIT_S", 0.02)
    made_by, got = [], []
    jobs = [threading.Thread(target=lambda: got.append(shared_work(store, model, made_by).run())) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert len(made_by) == 6 and len(set(made_by)) > 1 and {artifact.ref for artifact in got} == {"rm/many@v1"}
    assert len(got) == 3 and not list((store.root / "runs").iterdir())
    alone = shared_work(Store(store.root.with_name("alone")), model, made_by, share=False).run()
    assert alone.digest == got[0].digest


def test_who_helped_publishes_when_the_one_who_held_the_run_has_gone(store, model, monkeypatch):
    monkeypatch.setattr(work_module, "WAIT_S", 0.05)
    made_by: list[int] = []
    work = shared_work(store, model, made_by)
    with work.locked() as folder:  # another process, which holds the run, deals, and dies
        work._dealing(World(), publishes=True).open(alone=False)
        helper = threading.Thread(target=work.run)
        helper.start()
        for _ in range(200):
            if len(made_by) == 6:
                break
            time.sleep(0.05)
        assert len(made_by) == 6 and work.find() is None and folder.path.is_dir()
    helper.join(30)
    assert not helper.is_alive() and work.find() is not None and len(made_by) == 6


def test_a_run_that_is_not_shared_is_busy_and_a_shared_one_is_not_forced(store, model):
    work = shared_work(store, model, [])
    with work.locked(), pytest.raises(BusyError):
        shared_work(store, model, [], share=False).run()
    with pytest.raises(UsageError, match="throw away"):
        shared_work(store, model, [], force=True)

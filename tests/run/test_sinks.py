import sys

import pytest

from idgrpo.run.sinks import Sinks


def test_tensorboard_gets_every_number_and_no_text(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sinks = Sinks(["tensorboard"], tmp_path)
    sinks.log(1, {"reward_mean": 0.5, "window": "0 1", "kl": 0.0})
    sinks.log(2, {"reward_mean": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"reward/mean", "kl"}
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 0.5), (2, 0.75)]


@pytest.mark.parametrize("fails_at", ["open", "write"])
def test_a_failing_sink_is_named_once_and_the_others_go_on(tmp_path, caplog, fails_at):
    seen = []

    def broken(folder):
        if fails_at == "open":
            raise ConnectionError("away")

        def write(step, numbers):
            raise ConnectionError("away")

        return write

    openers = {"broken": broken, "good": lambda folder: lambda step, numbers: seen.append((step, numbers))}
    sinks = Sinks(["broken", "good"], tmp_path, openers=openers)
    for step in (1, 2):
        sinks.log(step, {"a": 1})
    assert seen == [(1, {"a": 1.0}), (2, {"a": 1.0})]
    assert caplog.text.count("sink broken failed") == 1


def test_a_viewer_that_is_not_installed_is_left_out(tmp_path, caplog):
    def missing(folder):
        raise ImportError("No module named 'viewer'")

    Sinks(["viewer"], tmp_path, openers={"viewer": missing}).log(1, {"a": 1.0})
    assert "viewer" in caplog.text


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_missing_viewer_is_named_with_its_install_line(name, tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    Sinks([name], tmp_path).log(1, {"a": 1.0})
    assert f"{name} is not installed" in caplog.text and "pip install 'idgrpo[viewers]'" in caplog.text

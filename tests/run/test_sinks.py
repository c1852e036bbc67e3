import sys

import pytest

from idgrpo.run.sinks import RewardedClip, Sinks, Viewer, run_identity


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

        return Viewer(write, write)

    def good(begun):
        return Viewer(lambda step, numbers: seen.append((step, numbers)), lambda step, clips: None)

    openers = {"broken": broken, "good": good}
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


@pytest.fixture
def clip(tmp_path):
    import torch

    from idgrpo.video.write import write_video

    write_video(tmp_path / "c.mp4", torch.randint(0, 255, (5, 3, 32, 48), dtype=torch.uint8), fps=16)
    return RewardedClip("case-1", tmp_path / "c.mp4", 1.25)


def test_a_resumed_run_keeps_its_identity_and_a_new_one_gets_another(tmp_path):
    first = run_identity(tmp_path / "run", fresh=True)
    assert first.startswith("run-")
    assert run_identity(tmp_path / "run", fresh=False) == first
    again = run_identity(tmp_path / "run", fresh=True)  # --force
    assert again != first and run_identity(tmp_path / "run", fresh=False) == again
    told = []

    def opener(begun):
        told.append(begun)
        return Viewer(lambda step, numbers: None, lambda step, clips: None)

    Sinks(["v"], tmp_path / "run", step=7, fresh=False, openers={"v": opener})
    assert (told[0].identity, told[0].step) == (again, 7)
    Sinks([], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_tensorboard_is_purged_at_the_step_of_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Sinks(["tensorboard"], tmp_path)
    for step in range(1, 7):
        first.log(step, {"reward_mean": float(step)})
    second = Sinks(["tensorboard"], tmp_path, step=4, fresh=False)  # the checkpoint was that of update 4
    for step in range(5, 8):
        second.log(step, {"reward_mean": 10.0 + step})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("reward/mean")]
    assert found == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 15.0), (6, 16.0), (7, 17.0)]


def test_tensorboard_shows_clips_with_their_rewards(tmp_path, clip):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Sinks(["tensorboard"], tmp_path).show(3, [clip])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (image,) = events.Images("clips/1")
    assert image.step == 3 and image.encoded_image_string.startswith(b"GIF89a")
    (text,) = events.Tensors("clips/1/text_summary")
    assert text.tensor_proto.string_val[0] == b"case-1: reward 1.250"


class FakeViewer:
    """Stands for trackio or wandb: keeps what it is called with, and refuses what their signatures refuse."""

    def __init__(self):
        self.calls = []

    def init(self, *, project, name, resume, id=None, dir=None):
        self.calls.append(("init", name, id, resume))
        return self

    def define_metric(self, name, *, step_metric):
        self.calls.append(("axis", name, step_metric))

    def log(self, figures, step=None):
        self.calls.append(("log", dict(figures), step))

    def Video(self, path, caption=None, format=None):
        return (path, caption)


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_viewers_resume_under_one_identity_and_get_clips(name, tmp_path, monkeypatch, clip):
    viewer = FakeViewer()
    monkeypatch.setitem(sys.modules, name, viewer)
    for fresh, step in ((True, 0), (False, 4)):
        sinks = Sinks([name], tmp_path, step=step, fresh=fresh)
        sinks.log(step + 1, {"reward_mean": 1.0})
    sinks.show(5, [clip])
    starts = [call for call in viewer.calls if call[0] == "init"]
    assert starts[0] == starts[1] and starts[0][3] == "allow"
    logged = [call for call in viewer.calls if call[0] == "log"]
    assert logged[1][1].get("update", logged[1][2]) == 5
    assert logged[2][1]["clips/1"] == (str(clip.path), "case-1: reward 1.250")
    Sinks([name], tmp_path, fresh=True)
    assert [call for call in viewer.calls if call[0] == "init"][-1] != starts[0]

"""Whole runs of the stage on a tiny random checkpoint: files, metrics, stop, exact resume."""

import hashlib
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from idgrpo.bases.load import load_base
from idgrpo.bases.tuned import load_tuned
from idgrpo.errors import ArtifactError, StoppedError, UsageError
from idgrpo.policy.config import PolicyConfig
from idgrpo.policy.keys import meaning
from idgrpo.policy.train import save, train
from idgrpo.records.models import Case, Reference
from idgrpo.run.distributed import World
from idgrpo.run.engine import OptimizerSettings, PlainEngine
from idgrpo.run.folder import RunFolder
from idgrpo.run.metrics import MetricsLog
from idgrpo.video.read import read_image
from idgrpo.video.write import write_image

SETTINGS = {
    "num_updates": 4,
    "size": {"width": 32, "height": 32, "frames": 5},
    "group": {"num_cases": 2, "size": 3},
    "rollout": {"num_steps": 4, "window": {"size": 2, "last": 3}},
    "lora": {"rank": 2},
    "advantage": {"controls": ["sharpness"], "hold": 2.0},  # what has drifted is part of the state
    "checkpoint": {"every": 2},
    "preview": {"every": 2, "num_samples": 1},
    "reward": {"retry_wait_s": 0.0},
}
TIMES = ("seconds_", "cpu_seconds", "samples_per_second")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    from tiny_checkpoints import TINY_VAE, write_diffusers_base

    return write_diffusers_base(tmp_path_factory.mktemp("base") / "vace", "vace", TINY_VAE)


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[Case]:
    folder = tmp_path_factory.mktemp("cases")
    made = []
    for index in range(4):
        references = []
        for person in range(1 + index % 2):  # one and two people: batches of two shapes
            path = folder / f"{index}-{person}.png"
            source = torch.Generator().manual_seed(10 * index + person)
            write_image(path, torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8, generator=source))
            references.append(Reference(person=f"p{index}{person}", images=[str(path)]))
        made.append(Case(id=f"case-{index}", prompt="two people walk on the beach", references=references))
    return made


def redness(videos, references, prompts):
    return [float(video[:, 0].float().mean()) for video in videos]


def run_stage(checkpoint, cases, folder, reward=redness, resume=False, evaluate=None, init=None, **changes):
    config = PolicyConfig.model_validate(SETTINGS | changes)
    with RunFolder.open(folder, config.model_dump()) as run:
        base = load_base(str(checkpoint))
        return train(base, cases, reward, config, run, out=folder / "out", evaluate=evaluate, init=init)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "out" / "pytorch_lora_weights.safetensors").read_bytes()).hexdigest()


def numbers(folder: Path) -> list[dict]:
    rows = MetricsLog.read(folder / "metrics.jsonl")
    return [{key: value for key, value in row.items() if not key.startswith(TIMES)} for row in rows]


@pytest.fixture(scope="module")
def whole(checkpoint, cases, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_stage(checkpoint, cases, folder)
    return folder


def test_run_leaves_adapter_settings_metrics_and_previews(whole, checkpoint):
    weights = load_file(whole / "out" / "pytorch_lora_weights.safetensors")
    assert any(float(value.abs().max()) > 0 for name, value in weights.items() if "lora_B" in name)
    card = json.loads((whole / "out" / "policy.json").read_text())
    assert card["updates"] == 4 and card["schedule"]["law"] == "wan"
    assert len(card["schedule"]["sigmas"]) == 5 and card["schedule"]["sigmas"][-1] == 0
    assert card["size"] == {"width": 32, "height": 32, "frames": 5}
    PolicyConfig.model_validate(card["config"])
    rows = numbers(whole)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert not [key for row in MetricsLog.read(whole / "metrics.jsonl") for key in row if meaning(key) is None]
    assert (whole / "out" / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert sorted(path.name for path in (whole / "previews").iterdir()) == ["update-000002", "update-000004"]
    assert len(list((whole / "previews" / "update-000004").glob("*.mp4"))) == 1
    assert read_image(whole / "out" / "curves.png").float().std() > 1
    assert read_image(whole / "out" / "previews.png").float().std() > 1


def test_policy_loads_on_a_fresh_base_and_changes_it(whole, checkpoint):
    from idgrpo.bases.lora import load_adapter

    load_adapter(load_base(str(checkpoint)), whole / "out")  # raises when the adapter has no effect


class Died(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.mark.parametrize("dies_in_update", [1, 2, 4])
def test_killed_and_resumed_run_ends_like_the_whole_one(whole, checkpoint, cases, tmp_path, dies_in_update):
    calls = 0

    def dying(videos, references, prompts):
        nonlocal calls
        calls += 1
        if calls == dies_in_update:
            raise Died
        return redness(videos, references, prompts)

    with pytest.raises(Died):
        run_stage(checkpoint, cases, tmp_path, reward=dying)
    run_stage(checkpoint, cases, tmp_path, resume=True)
    assert digest(tmp_path) == digest(whole)
    assert numbers(tmp_path) == numbers(whole)
    for name in ("curves.png", "previews.png"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / "out" / name).read_bytes()


def test_a_slow_average_that_draws_the_clips_comes_back_from_a_checkpoint(checkpoint, cases, tmp_path):
    nft = {"loss": {"name": "nft", "credit": "forward"}, "rollout": SETTINGS["rollout"] | {"decay": 0.5}}
    run_stage(checkpoint, cases, tmp_path / "whole", **nft)
    calls = 0

    def dying(videos, references, prompts):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Died
        return redness(videos, references, prompts)

    with pytest.raises(Died):
        run_stage(checkpoint, cases, tmp_path / "killed", reward=dying, **nft)
    run_stage(checkpoint, cases, tmp_path / "killed", resume=True, **nft)
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_first_checkpoint_comes_before_the_first_update(checkpoint, cases, tmp_path):
    seen = []

    def looking(videos, references, prompts):
        seen.append(sorted(path.name for path in (tmp_path / "checkpoints").iterdir()))
        raise Died

    with pytest.raises(Died):
        run_stage(checkpoint, cases, tmp_path, reward=looking)
    assert seen == [["step-000000"]]
    files = {path.name for path in (tmp_path / "checkpoints" / "step-000000").iterdir()}
    assert {"weights.safetensors", "average.safetensors", "optimizer.pt", "state.json"} <= files


class SecondRank(World):
    """A rank that is told what all ranks have decided, and counts where it would wait for them."""

    waited = 0

    def any(self, flag):
        assert not flag, "only the main rank looks at the checkpoints"
        return False

    def barrier(self):
        type(self).waited += 1


def test_ranks_save_alike_though_one_looks_after_the_main_has_published(tmp_path):
    folder = RunFolder(tmp_path)
    folder.checkpoints.save(3, lambda path: None, {})
    world = SecondRank(rank=1, size=2)
    engine = PlainEngine(
        {"a": torch.nn.Parameter(torch.zeros(1))}, OptimizerSettings(1.0, (0.0, 0.0), 1.0, 0.0, 1.0), world
    )
    save(SimpleNamespace(completed=3, engine=engine, world=world, weights={}), folder)
    assert SecondRank.waited == 1


def test_sigterm_stops_with_a_checkpoint_and_resumes_exactly(whole, checkpoint, cases, tmp_path):
    calls = 0

    def stopping(videos, references, prompts):
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return redness(videos, references, prompts)

    with pytest.raises(StoppedError, match="stopped after 3 of 4 updates") as error:
        run_stage(checkpoint, cases, tmp_path, reward=stopping)
    assert error.value.exit_code == 75
    assert (tmp_path / "checkpoints" / "step-000003").is_dir()
    run_stage(checkpoint, cases, tmp_path, resume=True)
    assert digest(tmp_path) == digest(whole) and numbers(tmp_path) == numbers(whole)


def test_reward_outage_ends_in_75_and_the_run_goes_on_later(whole, checkpoint, cases, tmp_path):
    calls = 0

    def outage(videos, references, prompts):
        nonlocal calls
        calls += 1
        if calls >= 2:
            raise ConnectionError("service away")
        return redness(videos, references, prompts)

    with pytest.raises(StoppedError, match="0% of the rewards of update 2"):
        run_stage(checkpoint, cases, tmp_path, reward=outage)
    run_stage(checkpoint, cases, tmp_path, resume=True)
    assert digest(tmp_path) == digest(whole)


def test_finished_run_publishes_again_without_training(whole, checkpoint, cases):
    before = digest(whole)

    def never(videos, references, prompts):
        raise AssertionError("no update is left")

    figures = run_stage(checkpoint, cases, whole, reward=never, resume=True)
    assert digest(whole) == before and figures["updates"] == 4


def test_held_out_evaluation_sees_the_published_weights(checkpoint, cases, tmp_path):
    seen = []

    def evaluate(base, update):
        seen.append(
            (update, float(sum(p.abs().sum() for n, p in base.transformer.named_parameters() if "lora_B" in n)))
        )
        return {"identity": 0.25 + update}

    figures = run_stage(checkpoint, cases, tmp_path, evaluate=evaluate, evaluation={"every": 2})
    assert [update for update, _ in seen] == [0, 2, 4]
    assert seen[0][1] == 0 < seen[1][1]
    assert [row.get("eval_identity") for row in numbers(tmp_path)] == [0.25, None, 2.25, None, 4.25]
    assert figures["eval_identity"] == 4.25
    timed = [row["step"] for row in MetricsLog.read(tmp_path / "metrics.jsonl") if "seconds_eval" in row]
    assert timed == [0, 2, 4]


def test_training_can_start_from_a_policy(whole, checkpoint, cases, tmp_path):
    run_stage(checkpoint, cases, tmp_path, init=whole / "out", num_updates=1, kl={"reference": "start"})
    start = load_file(tmp_path / "checkpoints" / "step-000000" / "weights.safetensors")
    init = load_file(whole / "out" / "pytorch_lora_weights.safetensors")
    assert sorted(float(v.double().abs().sum()) for v in start.values()) == sorted(
        float(v.double().abs().sum()) for v in init.values()
    )
    assert numbers(tmp_path)[0]["kl"] == pytest.approx(0.0, abs=1e-9)


FULL = {"train": "full", "optimizer": {"lr": 1e-4}, "kl": {"weight": 0.1}}


def test_whole_weights_are_trained_published_and_put_back(checkpoint, cases, tmp_path):
    run_stage(checkpoint, cases, tmp_path, **FULL)
    rows = numbers(tmp_path)
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-9) and rows[-1]["kl"] > 0 and rows[-1]["grad_norm"] > 0
    base, plain = load_base(str(checkpoint)), load_base(str(checkpoint)).transformer.state_dict()
    assert load_tuned(base, tmp_path / "out") == "full"
    average = load_file(tmp_path / "checkpoints" / "step-000004" / "average.safetensors")
    own = base.transformer.state_dict()
    assert own.keys() == average.keys() and all(own[name].equal(average[name]) for name in own)
    moved = [name for name in own if not own[name].equal(plain[name])]
    assert len(moved) > 0.9 * len(own)  # norms and biases too, not only what an adapter reaches
    assert not any(parameter.requires_grad for parameter in base.transformer.parameters())


def test_whole_weights_resume_exactly_and_start_from_whole_weights_only(whole, checkpoint, cases, tmp_path):
    class Killed(Exception):
        pass

    run_stage(checkpoint, cases, tmp_path / "one", **FULL)
    calls = 0

    def dying(videos, references, prompts):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Killed
        return redness(videos, references, prompts)

    with pytest.raises(Killed):
        run_stage(checkpoint, cases, tmp_path / "two", reward=dying, **FULL)
    run_stage(checkpoint, cases, tmp_path / "two", resume=True, **FULL)
    assert numbers(tmp_path / "one") == numbers(tmp_path / "two")
    first, second = (
        load_file(next((tmp_path / n / "out" / "transformer").glob("*.safetensors"))) for n in ("one", "two")
    )
    assert all(value.equal(second[name]) for name, value in first.items())

    start = FULL | {"num_updates": 1, "kl": {"weight": 0.1, "reference": "start"}}
    run_stage(checkpoint, cases, tmp_path / "on", init=tmp_path / "one" / "out", **start)
    weights = load_file(tmp_path / "on" / "checkpoints" / "step-000000" / "weights.safetensors")
    assert all(value.equal(first[name]) for name, value in weights.items())
    with pytest.raises(UsageError, match="the base's own are not kept"):
        run_stage(checkpoint, cases, tmp_path / "base", init=tmp_path / "one" / "out", **FULL)
    with pytest.raises(UsageError, match="holds an adapter, this run trains whole weights"):
        run_stage(checkpoint, cases, tmp_path / "mixed", init=whole / "out", **start)
    with pytest.raises(UsageError, match="holds whole weights, this run trains an adapter"):
        run_stage(checkpoint, cases, tmp_path / "mixed2", init=tmp_path / "one" / "out")


def test_whole_weights_of_another_base_are_refused(checkpoint, cases, tmp_path):
    from tiny_checkpoints import TINY_VAE, write_diffusers_base

    run_stage(checkpoint, cases, tmp_path / "vace", **(FULL | {"num_updates": 1}))
    other = load_base(str(write_diffusers_base(tmp_path / "phantom", "phantom", TINY_VAE)))
    with pytest.raises(ArtifactError):
        load_tuned(other, tmp_path / "vace" / "out")


def test_too_few_cases_are_refused_with_the_arithmetic(checkpoint, cases, tmp_path):
    with pytest.raises(UsageError, match="5 groups per update need 5 different cases, but there are 4"):
        run_stage(checkpoint, cases, tmp_path, group={"num_cases": 5, "size": 2})

"""`--reward`: three rewards of three kinds in one run, one of them failing; the same sources in `eval` and for judges."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

for room in ("bases", "reward", "policy"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from policy_setting import SMALL, ColourFinder, write_setting  # noqa: E402

from idgrpo.cli.main import run  # noqa: E402
from idgrpo.errors import UsageError  # noqa: E402
from idgrpo.evaluate.measure import is_measure  # noqa: E402
from idgrpo.reward.functions import FunctionReward  # noqa: E402
from idgrpo.run.metrics import MetricsLog  # noqa: E402
from idgrpo.stages.rewards import find_reward, named_rewards, parse_rewards  # noqa: E402
from idgrpo.store.store import Store  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "reward_server.py"
FUNCTIONS = """
import hashlib
from idgrpo.errors import DataError

def failing(frames, references, prompt):
    share = hashlib.sha256(frames.numpy().tobytes()).digest()[0] / 256
    return None if share < 0.3 else float(frames.float().mean()) / 255

def broken(frames, references, prompt):
    return "high"

def raising(frames, references, prompt):
    return 1 / 0

def pair(frames, references, prompt):
    return frames.float().mean((1, 2, 3))[:2]

class Informed:
    info = "text"

class Unmade:
    def __init__(self, device):
        raise KeyError("weights")

class Loaded:
    def __init__(self, device="cpu"):
        self.device = device

    def __call__(self, frames, references, prompt):
        if frames.float().mean() < 10:
            raise DataError("too dark")
        return len(references) + frames.float().mean() / 255
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> dict[str, str]:
    return write_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture
def functions(tmp_path, monkeypatch) -> str:
    """Put a module of reward functions on the path, under a name of its own."""
    name = f"rewards_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture(scope="module")
def server():
    """Run the example's server; give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(EXAMPLE), str(port)])
    for _ in range(200):
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def train(tmp_path, setting, capsys):
    def call(*words: str) -> tuple[int, dict]:
        fixed = ["train-policy", "--base", setting["base"], "--cases", setting["cases"], *SMALL, "--json"]
        code = run([*fixed, "--store", str(tmp_path / "store"), "--set", "group.size=6", *words])
        return code, json.loads(capsys.readouterr().out)

    return call


def test_the_example_server_is_short():
    code = EXAMPLE.read_text().split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40


def test_three_rewards_of_three_kinds_one_of_them_failing(train, setting, functions, server):
    finder = f"{ColourFinder.__module__}:ColourFinder"
    code, document = train(
        "--reward", f"model={setting['rm']}*0.5", "--reward", f"mine={functions}:failing", "--reward", "identity*2",
        "--reward", f"bright={server}*0.25", "--set", f"reward.finder={finder}", "--set", "reward.min_valid_share=0.2",
    )  # fmt: skip
    assert code == 0, document
    rows = MetricsLog.read(Path(document["path"]) / "metrics.jsonl")
    updates = [row for row in rows if "reward_mine_failed_share" in row]
    assert len(updates) == 2
    shares = [row["reward_mine_failed_share"] for row in updates]
    assert 0 < max(shares) < 0.8
    for row in updates:
        assert row["reward_failed_share"] == row["reward_mine_failed_share"], (
            "a clip counts only with all of its rewards"
        )
        assert row["reward_model_failed_share"] == row["reward_identity_failed_share"] == 0
        assert row["reward_bright_failed_share"] == 0 and 0 < row["reward_bright_mean"] < 1
        assert row["reward_mine_min"] >= 0 and abs(row["reward_mine_max"]) < 1.01
    config = Store(Path(document["path"]).parents[3]).resolve("policy").manifest.config
    assert {name: one["kind"] for name, one in config["rewards"].items()} == {
        "model": "model", "mine": "function", "identity": "measure", "bright": "service"
    }  # fmt: skip
    assert config["policy"]["reward"]["weights"] == {"model": 0.5, "identity": 2.0, "bright": 0.25}


def test_a_reward_model_alone_may_have_a_weight_and_the_plan_names_what_scores(train, setting):
    """`reward.weights.rm` was refused where nothing else scored, after the base had been read."""
    code, plan = train("--reward", f"rm={setting['rm']}*0.5", "--reward", "identity", "--dry-run")
    assert code == 0 and {name: one["kind"] for name, one in plan["rewards"].items()} == {
        "rm": "model",
        "identity": "measure",
    }
    first = []
    for words in ([], ["--set", "reward.weights.rm=2"]):
        code, document = train("--rm", setting["rm"], *words)
        assert code == 0, document
        rows = MetricsLog.read(Path(document["path"]) / "metrics.jsonl")
        first.append(next(row["reward_mean"] for row in rows if "reward_mean" in row))
    assert first[1] == pytest.approx(2 * first[0]) and first[0] != 0


def test_an_info_of_its_own_makes_no_measure_of_a_reward(functions):
    assert not is_measure(f"{functions}:Informed") and is_measure("planted:anybody")


def test_a_function_that_is_marked_as_a_measure_is_asked_about_people(train):
    """It was taken for a function of clips, which failed with the arguments of one."""
    finder = f"{ColourFinder.__module__}:ColourFinder"
    code, document = train("--reward", "anybody=planted:anybody", "--set", f"reward.finder={finder}")
    assert code == 0, document
    store = Store(Path(document["path"]).parents[3])
    assert store.resolve("policy").manifest.config["rewards"]["anybody"]["kind"] == "measure"


@pytest.mark.parametrize("name", ["mine", "rm"])
def test_another_function_is_another_run(train, functions, tmp_path, name):
    words = ["--reward", f"{name}={functions}:failing", "--set", "reward.min_valid_share=0.1"]
    first = train(*words)[1]
    assert train(*words)[1]["artifact"] == first["artifact"]
    file = tmp_path / f"{functions}.py"
    file.write_text(file.read_text() + "\n# another version\n")
    assert train(*words)[1]["artifact"] != first["artifact"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--reward", "mine={m}:broken"), 2, "gives a float or None, not str"),
        (("--reward", "mine={m}:broken"), 2, "the reward {m}:broken gives"),
        (("--reward", "mine={m}:pair"), 2, "not a tensor of shape [2]"),
        (("--reward", "mine={m}:raising"), 1, "the reward {m}:raising failed: ZeroDivisionError: division by zero (/"),
        (("--reward", "mine={m}:Unmade"), 2, "the reward {m}:Unmade cannot be made: KeyError: 'weights' (/"),
        (("--reward", "mine={m}:nothing"), 2, "cannot be imported: AttributeError"),
        (("--reward", "mine=nowhere_at_all:it"), 2, "ModuleNotFoundError"),
        (("--reward", "mine=nonsense"), 2, "no reward model, service, function or measure"),
        (("--reward", "http://127.0.0.1:1"), 2, "has no name"),
        (("--reward", "mine=http://127.0.0.1:port"), 2, "http://127.0.0.1:port is no address of a service"),
        (("--reward", "identity*nan"), 2, "the weight 'nan' is no finite number"),
        (("--reward", "mine={m}:failing*"), 2, "the weight '' is no finite number"),
        (("--reward", "my-style={m}:failing"), 2, "'my-style' is no name"),
        (("--reward", "identity", "--reward", "identity=worst"), 2, "two rewards are called 'identity'"),
        (("--reward", "rm=identity", "--rm", "{rm}"), 2, "two rewards are called 'rm'"),
        (("--reward", "confusion", "--set", "reward.finder=tiny"), 2, "reward.weights.confusion=-1"),
        (("--reward", "mine={m}:failing", "--method", "sft"), 2, "reward.sources are for GRPO"),
        (("--rm", "identity"), 2, "--reward identity"),
        (
            ("--reward", "identity", "--set", "reward.weights.idnetity=2", "--dry-run"),
            2,
            "names idnetity, which is no reward",
        ),
        (("--reward", "confusion", "--dry-run"), 2, "reward.weights.confusion=-1"),
    ],
)
def test_wrong_rewards_are_refused(train, functions, setting, words, code, says):
    found, document = train(*(word.format(m=functions, rm=setting["rm"]) for word in words))
    assert found == code and says.format(m=functions) in document["error"]["message"] + str(document["error"]["fix"])


def test_texts_become_settings():
    assert parse_rewards(["a=rm@v3*0.5", "b=http://h:1/x?y=2", "identity*2", "c=pkg.mod:fn*-1e-1"]) == {
        "reward.sources.a": "rm@v3", "reward.weights.a": 0.5, "reward.sources.b": "http://h:1/x?y=2",
        "reward.sources.identity": "identity", "reward.weights.identity": 2.0,
        "reward.sources.c": "pkg.mod:fn", "reward.weights.c": -0.1,
    }  # fmt: skip
    assert named_rewards(["rm:best", "b=pkg:fn"]) == {"reward": "rm:best", "b": "pkg:fn"}
    with pytest.raises(UsageError, match="two rewards"):
        named_rewards(["rm", "folder"])


def test_numbers_of_numpy_and_tensors_of_one_are_scores():
    videos = [torch.zeros(1, 3, 2, 2, dtype=torch.uint8)]
    for value in (np.float32(0.5), np.int64(2), torch.tensor([0.5]), 1):
        assert FunctionReward(lambda *given, value=value: value, "digest").score(videos, [[]], [""]) == [float(value)]


def test_a_class_is_made_once_and_a_clip_that_fails_leaves_the_others_alone(tmp_path, functions):
    found = find_reward(Store(tmp_path / "store"), "mine", f"{functions}:Loaded")
    assert found.kind == "function" and found.source is None
    videos = [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)]
    dark, bright = found.load().score(videos, [[videos[0][0]]] * 2, ["", ""])
    assert dark.reason == "too dark" and bright == 2.0


def test_functions_and_services_in_the_report_and_as_judges(setting, functions, server, tmp_path, capsys):
    store = ["--store", str(tmp_path / "store"), "--json"]

    def call(*words: str) -> dict:
        code = run([*words, *store])
        document = json.loads(capsys.readouterr().out)
        assert code == 0, document
        return document

    size = ["--steps", "2", "--size", "32x32x5", "--num-per-case", "2"]
    call("sample", "--base", setting["base"], "--cases", setting["cases"], *size)
    finder = f"{ColourFinder.__module__}:ColourFinder"
    words = ["--reward", f"mine={functions}:Loaded", "--reward", f"bright={server}", "--finder", finder]
    report = call("eval", "--samples", "base=samples", *words, "--set", "statistics.num_resamples=200")
    means = report["means"]["base"]
    assert 0 < means["bright"]["value"] < 1 and means["mine"]["value"] > 1
    assert run(["eval", "--samples", "base=samples", "--reward", "mine=planted:anybody", *store]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (
        "which the report shows as such" in error["message"]
        and 'measures=["identity", "planted:anybody"]' in error["fix"]
    )
    shown = call(
        "eval", "--samples", "base=samples", "--finder", finder, "--set", 'measures=["planted:anybody"]', "--name", "b"
    )
    assert "anybody" in shown["means"]["base"]
    judges = ["--judge", f"{functions}:Loaded", "--judge", server, "--judge", "identity"]
    votes = call(
        "annotate", "--by", "judge", *judges, "--set", f"judge.finder={finder}", "--set", "aggregate.min_alpha=-1"
    )
    assert {row["judge"] for row in votes["judges"]} >= {f"{functions}.Loaded", "identity"}
    assert all(row["order_consistent"]["value"] == 1.0 for row in votes["judges"])

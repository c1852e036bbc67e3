"""`idgrpo artifacts serve` as a real process: same scores, several devices, back-pressure, stops, outages."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from tests.evaluate.conftest import PlantedFinder, make_samples  # noqa: F401

from idgrpo.cli.main import run
from idgrpo.errors import MachineError
from idgrpo.records.jsonl import write_records
from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.client import RewardClient
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.model import RewardNetwork, save_network
from idgrpo.reward.parts import add_token_rows
from idgrpo.reward.score import RewardFailure, RewardModel
from idgrpo.reward.wire import TYPE, pack_request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ENTRY = [sys.executable, "-c", "from idgrpo.cli.main import main; main()"]


@pytest.fixture(scope="module")
def folder(tiny_vlm, tmp_path_factory) -> Path:
    builder, backbone = InputBuilder.load(tiny_vlm), load_backbone(tiny_vlm)
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    out = tmp_path_factory.mktemp("rm") / "rm"
    save_network(RewardNetwork(backbone, 32), builder, {"tie_threshold": 0.1}, out, copy_from=None)
    return out


class Served:
    """A running service."""

    def __init__(self, folder: Path, *arguments: str):
        command = [*ENTRY, "artifacts", "serve", str(folder), "--port", "0", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http"), self.url

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *problem: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_further_name_of_the_machine_is_welcome_where_it_is_allowed(folder):
    for words, status in (((), 421), (("--allow-host", "rm.cluster"), 200)):
        with Served(folder, "--device", "cpu", *words) as served:
            assert httpx.get(f"{served.url}/health", headers={"host": "rm.cluster"}).status_code == status


def clips(num: int, frames: int = 9) -> tuple:
    generator = torch.Generator().manual_seed(num)
    videos = torch.randint(0, 256, (num, frames, 3, 32, 32), generator=generator, dtype=torch.uint8)
    photos = torch.randint(0, 256, (num, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return list(videos), [list(p) for p in photos], [f"prompt {i}" for i in range(num)]


def test_many_callers_get_the_models_scores_from_two_devices(folder) -> None:
    model = RewardModel.load(folder)
    requests = [clips(num) for num in range(1, 9)]
    requests[3][0][1] = requests[3][0][1].float()
    expected = [model.score(*request) for request in requests]
    assert isinstance(expected[3][1], RewardFailure)
    with Served(folder, "--device", "cpu", "--device", "cpu", "--max-waiting", "2") as served:
        client = RewardClient(served.url, attempts=30, first_wait_s=0.05)
        health = client.health()
        assert health["devices"] == ["cpu", "cpu"] and health["model"] == model.digest
        with ThreadPoolExecutor(8) as callers:  # more callers than places: some are told to wait, all are served
            found = list(callers.map(lambda request: client.score(*request), requests))
        for ours, theirs in zip(found, expected, strict=True):
            assert [type(x) for x in ours] == [type(x) for x in theirs]
            assert [x for x in ours if isinstance(x, float)] == pytest.approx(
                [x for x in theirs if isinstance(x, float)], abs=1e-6
            )
        assert client.health()["scored"] == sum(map(len, expected))
        assert client.health()["pending"] == 0
        # A stop lets what is being scored finish, and is a clean end.
        with ThreadPoolExecutor(1) as caller:
            body = pack_request(*clips(40))
            late = caller.submit(
                httpx.post, f"{served.url}/score", content=body, headers={"content-type": TYPE}, timeout=60
            )
            while not httpx.get(f"{served.url}/health").json()["pending"]:
                pass
            served.process.send_signal(signal.SIGTERM)
            assert len(late.result().json()["results"]) == 40
        assert served.process.wait(30) == 0
        with pytest.raises(MachineError, match="gave no score"):
            RewardClient(served.url, attempts=2, first_wait_s=0.01).score(*clips(1))


def test_a_killed_service_is_an_error_never_a_number(folder, tmp_path) -> None:
    with Served(folder) as served:
        client = RewardClient(served.url, attempts=3, first_wait_s=0.01)
        assert isinstance(client.score(*clips(1))[0], float)
        again = subprocess.run(
            [*ENTRY, "artifacts", "serve", str(folder), "--port", served.url.rsplit(":", 1)[1]],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert again.returncode == 5 and "cannot be had" in again.stderr and not again.stdout
        served.process.send_signal(signal.SIGSTOP)  # accepts connections, never answers
        with pytest.raises(MachineError, match="ReadTimeout.*2 attempts"):
            RewardClient(served.url, attempts=2, first_wait_s=0.01, timeout_s=0.5).score(*clips(1))
        served.process.kill()
        served.process.wait(30)
        with pytest.raises(MachineError, match="3 attempts"):
            client.score(*clips(1))
    cases = tmp_path / "cases.csv"
    cases.write_text("ref_paths,prompt\na.png,x\n")
    done = subprocess.run(
        [*ENTRY, "train-policy", "--base", "tiny-phantom", "--cases", str(cases), "--rm", served.url, "--set", "group.num_cases=1",
         "--store", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 6 and "gave no score" in done.stderr


def test_eval_shows_the_scores_of_a_service_as_those_of_the_model(folder, make_samples, tmp_path, capsys) -> None:  # noqa: F811
    for name, scripts in (("base", ["duplicate", "replaced"]), ("tuned", ["faithful", "faithful"])):
        write_records(tmp_path / f"{name}.jsonl", make_samples(name, scripts))
    given = [part for name in ("base", "tuned") for part in ("--samples", f"{name}={tmp_path}/{name}.jsonl")]
    finder = [
        "--finder",
        f"{PlantedFinder.__module__}:{PlantedFinder.__name__}",
        "--set",
        "statistics.num_resamples=200",
    ]

    def evaluated(reward: str, name: str) -> tuple[dict, str]:
        code = run(
            ["eval", *given, *finder, "--reward", reward, "--name", name, "--store", str(tmp_path / "store"), "--json"]
        )
        document = json.loads(capsys.readouterr().out)
        assert code == 0, document
        return document["comparisons"]["tuned"]["reward"], document["artifact"]

    own, _ = evaluated(str(folder), "own")
    with Served(folder) as served:
        asked, artifact = evaluated(served.url, "asked")
        assert evaluated(served.url, "asked")[1] == artifact  # the model is known by its digest: not asked again
    for key in ("base", "tuned"):
        assert asked[key] == pytest.approx(own[key], abs=1e-6)

"""Service and client: same scores as the model, failures kept apart, back-pressure, bounded retries, outages as errors."""

import asyncio
import threading

import httpx
import pytest
import torch
from starlette.testclient import TestClient

from idgrpo.errors import ArtifactError, DataError, MachineError
from idgrpo.reward.backbone import load_backbone
from idgrpo.reward.client import RewardClient
from idgrpo.reward.inputs import InputBuilder
from idgrpo.reward.limits import Limits
from idgrpo.reward.model import RewardNetwork
from idgrpo.reward.parts import add_token_rows
from idgrpo.reward.score import RewardFailure, RewardModel
from idgrpo.reward.service import make_app
from idgrpo.reward.wire import TYPE, pack_request, unpack_request, unpack_scores


@pytest.fixture(scope="module")
def model(tiny_vlm) -> RewardModel:
    builder, backbone = InputBuilder.load(tiny_vlm), load_backbone(tiny_vlm)
    add_token_rows(backbone, len(builder.tokenizer), len(builder.added_tokens))
    return RewardModel(RewardNetwork(backbone, 32).eval(), builder, {})


HEADERS = {"content-type": TYPE}


CALLER = [(b"host", b"127.0.0.1"), (b"content-type", TYPE.encode())]


def web_of(app) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1", headers=HEADERS)


class Bridge(httpx.BaseTransport):
    """Carry the client's requests straight into the application."""

    def __init__(self, app):
        self.web = web_of(app)
        self.answers: list[httpx.Response | Exception] = []
        self.num_requests = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.num_requests += 1
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        found = self.web.request(
            request.method, request.url.path, content=request.read(), headers=dict(request.headers)
        )
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)


def clips(num: int) -> tuple:
    generator = torch.Generator().manual_seed(num)
    videos = torch.randint(0, 256, (num, 9, 3, 32, 32), generator=generator, dtype=torch.uint8)
    photos = torch.randint(0, 256, (num, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return list(videos), [list(p) for p in photos], [f"prompt {i}" for i in range(num)]


def client(bridge: Bridge, **settings) -> RewardClient:
    waits = settings.pop("waits", [])
    return RewardClient("http://127.0.0.1", transport=bridge, sleep=waits.append, **settings)


def test_remote_scores_are_the_models_scores(model) -> None:
    remote = client(Bridge(make_app([model])))
    videos, photos, prompts = clips(3)
    videos[1] = videos[1].float()
    local = model.score(videos, photos, prompts)
    assert remote.score(videos, photos, prompts) == local
    assert isinstance(local[1], RewardFailure)
    assert remote.health()["scored"] == 3 and remote.health()["devices"] == ["cpu"]


def test_short_outages_are_bridged_and_long_ones_are_errors(model) -> None:
    bridge, waits = Bridge(make_app([model])), []
    busy = httpx.Response(503, headers={"Retry-After": "3"})
    bridge.answers = [httpx.ConnectError("refused"), busy]
    assert client(bridge, waits=waits).score(*clips(1)) == model.score(*clips(1))
    assert waits == [0.5, 3.0]
    bridge.answers = [httpx.ReadTimeout("slow")] * 9
    bridge.num_requests = 0
    with pytest.raises(MachineError, match="ReadTimeout slow, 3 attempts"):
        client(bridge, attempts=3).score(*clips(1))
    assert bridge.num_requests == 3


def test_refusals_are_not_retried(model) -> None:
    bridge = Bridge(make_app([model], limits=Limits(max_bytes=100)))
    with pytest.raises(DataError, match="413"):
        client(bridge).score(*clips(1))
    assert bridge.num_requests == 1
    assert web_of(make_app([model])).post("/score", content=b"nonsense").status_code == 422


def test_another_model_is_noticed(model) -> None:
    assert client(Bridge(make_app([model])), model=model.digest).score(*clips(1))
    with pytest.raises(ArtifactError, match="not be comparable"):
        client(Bridge(make_app([model])), model="sha256:0").score(*clips(1))
    bridge = Bridge(make_app([model]))
    remote = client(bridge)
    remote.health()
    exchanged = RewardModel(model.network, model.builder, {}, digest="sha256:exchanged")
    bridge.web = web_of(make_app([exchanged]))
    with pytest.raises(ArtifactError, match="sha256:exchanged"):
        remote.score(*clips(1))


def test_a_fallen_device_is_an_error_and_seen_in_health(model) -> None:
    class Fallen:
        digest, device, working = model.digest, model.device, False

        def score(self, *request):
            if not self.working:
                raise RuntimeError("CUDA error: device-side assert")
            return model.score(*request)

    fallen = Fallen()
    remote = client(Bridge(make_app([fallen])), attempts=2)
    with pytest.raises(MachineError, match="status 500.*device-side assert"):
        remote.score(*clips(1))
    with pytest.raises(MachineError, match="failing"):
        remote.health()
    fallen.working = True
    assert remote.score(*clips(1)) == model.score(*clips(1)) and remote.health()["status"] == "ok"


def test_one_fallen_device_is_named_while_the_others_score(model) -> None:
    class Fallen:
        digest, device, working = model.digest, "cuda:1", False

        def score(self, *request):
            if not self.working:
                raise RuntimeError("CUDA error: device-side assert")
            return model.score(*request)

    fallen = Fallen()
    web = web_of(make_app([model, fallen]))  # idle devices are asked in turn
    answers = [web.post("/score", content=pack_request(*clips(1))).status_code for _ in range(3)]
    assert answers == [200, 500, 200]
    health = web.get("/health")
    assert health.status_code == 200 and health.json()["status"] == "degraded"
    (fault,) = health.json()["failing"]
    assert fault["device"] == "cuda:1" and fault["place"] == 1 and "device-side assert" in fault["error"]
    fallen.working = True
    assert web.post("/score", content=pack_request(*clips(1))).status_code == 200
    assert web.get("/health").json()["status"] == "ok"


def test_a_caller_who_leaves_or_lies_about_the_length_is_no_fault_of_the_service(model) -> None:
    app = make_app([model])
    messages: list[dict] = []
    incoming = iter([{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict:
        return next(incoming)

    async def send(message: dict) -> None:
        messages.append(message)

    scope = {"type": "http", "method": "POST", "path": "/score", "headers": CALLER, "query_string": b""}
    asyncio.run(app(scope, receive, send))
    assert messages[0]["status"] == 400
    web = web_of(app)
    for length in ("many", "-1", "1e3"):
        answer = web.post("/score", content=b"x", headers={"content-length": length})
        assert answer.status_code == 422 and "content-length" in answer.json()["error"]
    health = web.get("/health").json()
    assert health["status"] == "ok" and health["pending"] == 0 and "failing" not in health


def test_a_body_of_unknown_length_is_bounded_too(model) -> None:
    web = web_of(make_app([model], limits=Limits(max_bytes=1000)))
    answer = web.post("/score", content=(b"x" * 100 for _ in range(100)))
    assert answer.status_code == 413


def test_nonsense_answers_are_errors(model) -> None:
    bridge = Bridge(make_app([model]))
    for text in ("<html>", "[]"):
        bridge.answers = [httpx.Response(200, text=text)]
        with pytest.raises(DataError, match="no scoring service"):
            client(bridge).health()
    for document in (
        [],
        {"results": []},
        {"results": [{"score": "high"}]},
        {"results": [{}]},
        {"results": [{"score": None}]},
        {"results": [{"score": float("nan")}]},
        {"results": [{"score": float("inf")}]},
    ):
        with pytest.raises(DataError):
            unpack_scores(document, 1)
    with pytest.raises(DataError):
        unpack_request(b"")


def test_too_many_waiting_requests_are_turned_away(model) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        digest = model.digest

        def score(self, *request):
            entered.set()
            leave.wait(10)
            return model.score(*request)

    async def scenario() -> list[int]:
        transport = httpx.ASGITransport(make_app([Slow()], max_waiting=1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=HEADERS) as web:
            body = pack_request(*clips(1))
            first = asyncio.create_task(web.post("/score", content=body))
            while not entered.is_set():
                await asyncio.sleep(0.01)
            second = await web.post("/score", content=body)
            leave.set()
            return [(await first).status_code, second.status_code, int(second.headers["Retry-After"])]

    assert asyncio.run(scenario()) == [200, 503, 1]

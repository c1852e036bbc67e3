"""Service and client: same scores as the model, failures kept apart, back-pressure, bounded retries, outages as errors."""

import asyncio
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from safetensors.torch import save
from scoring import clips, untrained
from starlette.testclient import TestClient

from idgrpo.errors import ArtifactError, DataError, MachineError, UsageError
from idgrpo.reward.client import RewardClient
from idgrpo.reward.inputs import frame_rates
from idgrpo.reward.score import RewardFailure, RewardModel, one_for_all, score_sets
from idgrpo.reward.service import listen, make_app, serve
from idgrpo.reward.wire import TYPE, pack_request, unpack_request, unpack_scores
from idgrpo.run.limits import Limits


@pytest.fixture(scope="module")
def model(tiny_vlm) -> RewardModel:
    return untrained(tiny_vlm)


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
    assert waits[0] == 0.5 and 3.0 <= waits[1] <= 3.75
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
    bridge.answers = [httpx.Response(200, json={"status": "ok"})]
    with pytest.raises(DataError, match="its answer names no model"):
        client(bridge).health()
    bridge.answers = [httpx.DecodingError("not gzip")] * 9
    with pytest.raises(MachineError, match="DecodingError not gzip"):
        client(bridge, attempts=2).health()
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


def test_a_callers_bad_clips_harm_nobody_and_no_device(model) -> None:
    bridge = Bridge(make_app([model]))
    videos, photos, prompts = clips(5)
    expected = model.score(videos, photos, prompts)
    videos[0] = videos[0][..., :0]
    photos[1] = [photos[1][0], torch.zeros(3, 1, 300, dtype=torch.uint8)]
    prompts[2] = "\ud800"
    found = client(bridge).score(videos, photos, prompts)
    assert [type(x) for x in found] == [RewardFailure] * 3 + [float] * 2
    assert found[3:] == pytest.approx(expected[3:], abs=1e-5)
    assert bridge.web.get("/health").json()["status"] == "ok"


def test_what_one_clip_does_to_a_device_that_works_costs_that_clip_alone(model) -> None:
    class Picky:
        digest, device = model.digest, model.device

        def score(self, videos, *rest):
            if any(len(video) == 7 for video in videos):
                raise RuntimeError("an odd clip")
            return model.score(videos, *rest)

    bridge = Bridge(make_app([Picky()]))
    videos, photos, prompts = clips(3)
    expected = model.score(videos, photos, prompts)
    videos[1] = videos[1][:7]
    found = client(bridge).score(videos, photos, prompts)
    assert found[1] == RewardFailure("RuntimeError: an odd clip")
    assert [found[0], found[2]] == pytest.approx([expected[0], expected[2]], abs=1e-5)
    health = bridge.web.get("/health").json()
    assert health["status"] == "ok" and "failing" not in health


@pytest.mark.parametrize("fps", [None, 24, [8.0, None, 30.0]])
def test_frame_rates_and_seen_clips_travel(model, fps) -> None:
    videos, photos, prompts = clips(3)
    remote = client(Bridge(make_app([model])))
    assert remote.score(videos, photos, prompts, fps) == model.score(videos, photos, prompts, fps)
    rates = frame_rates(fps, 3)
    seen = [model.builder.see(video, rate) for video, rate in zip(videos, rates, strict=True)]
    assert remote.score(seen, photos, prompts) == model.score(videos, photos, prompts, fps)


def test_reference_sets_share_their_clip_on_the_way_and_behind_it(model) -> None:
    videos, photos, prompts = clips(2)
    sets = [[people, *one_for_all(people)] for people in photos]
    assert score_sets(client(Bridge(make_app([model]))), videos, sets, prompts) == score_sets(
        model, videos, sets, prompts
    )
    one = pack_request(videos, photos, prompts)
    three = pack_request(videos * 3, photos * 3, prompts * 3)
    assert len(three) - len(one) < 2000  # a few lines of text
    again = unpack_request(three)
    assert again[0][0] is again[0][2] and again[1][0][0] is again[1][2][0]


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b'{"rows": 3}',
        b'{"rows": [1]}',
        b"[" * 100_000,
        b"\xff",
        b'{"rows": [{"video": "x", "seen_of": null, "photos": [], "prompt": "", "fps": null}]}',
        b'{"rows": [{"video": "header", "seen_of": "x", "photos": [], "prompt": "", "fps": null}]}',
        b'{"rows": [{"video": "header", "seen_of": null, "photos": [], "prompt": "", "fps": "x"}]}',
    ],
)
def test_requests_of_wrong_shape_are_refused(model, header) -> None:
    body = save({"header": torch.frombuffer(bytearray(header), dtype=torch.uint8)})
    web = web_of(make_app([model]))
    answer = web.post("/score", content=body)
    assert answer.status_code == 422 and "not a scoring request" in answer.json()["error"]
    assert web.get("/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    "host, welcome",
    [("127.0.0.1:8300", True), ("10.0.0.5:8300", True), ("[::1]:8300", True), ("localhost", True), ("rm.cluster:80", True),
     ("evil.example", False), ("evil.example:8300", False), ("", False)],
)  # fmt: skip
def test_only_names_of_this_machine_are_answered(model, host, welcome) -> None:
    web = web_of(make_app([model], hosts=["RM.cluster"]))
    statuses = {web.get("/health", headers={"host": host}).status_code,
                web.post("/score", content=pack_request(*clips(1)), headers={"host": host}).status_code}  # fmt: skip
    assert statuses == ({200} if welcome else {421})


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/form-data", ""])
def test_other_content_is_refused(model, kind) -> None:
    body = pack_request(*clips(1))
    answer = web_of(make_app([model])).post("/score", content=body, headers={"content-type": kind})
    assert answer.status_code == 415


def test_who_has_no_token_is_turned_away(model, monkeypatch) -> None:
    bridge = Bridge(make_app([model], token="secret"))
    for path in ("/health", "/metrics"):
        assert bridge.web.get(path).status_code == 401
        assert bridge.web.get(path, headers={"authorization": "Bearer secret"}).status_code == 200
    with pytest.raises(UsageError, match="asks for a token"):
        client(bridge, token="wrong").score(*clips(1))
    monkeypatch.setenv("IDGRPO_SERVICE_TOKEN", "secret")
    assert client(bridge).score(*clips(1)) == model.score(*clips(1))


def test_waiting_requests_are_joined_and_a_bad_one_costs_nobody_else(model) -> None:
    calls, entered, leave = [], threading.Event(), threading.Event()

    class Noted:
        digest, device = model.digest, "cpu"

        def score(self, videos, *rest):
            calls.append(len(videos))
            if not entered.is_set():
                entered.set()
                leave.wait(20)
            if any(len(video) == 3 for video in videos):
                raise RuntimeError("three frames")
            return model.score(videos, *rest)

    requests = [clips(1), clips(2), clips(3), clips(1, frames=3), clips(2)]
    expected = [model.score(*request) for request in requests]

    async def scenario(join: int) -> list[httpx.Response]:
        transport = httpx.ASGITransport(make_app([Noted()], join=join))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=HEADERS) as web:
            sent = [asyncio.create_task(web.post("/score", content=pack_request(*requests[0])))]
            while not entered.is_set():
                await asyncio.sleep(0.01)
            for request in requests[1:]:
                sent.append(asyncio.create_task(web.post("/score", content=pack_request(*request))))
                await asyncio.sleep(0.1)
            leave.set()
            return [await one for one in sent]

    answers = asyncio.run(scenario(join=6))
    for request, answer, scores in zip(requests, answers, expected, strict=True):
        if len(request[0][0]) == 3:
            assert "three frames" in answer.json()["results"][0]["failure"]
        else:
            found = [row["score"] for row in answer.json()["results"]]
            assert found == pytest.approx(scores, abs=1e-5)
    assert calls[0] == 1 and calls[1] == 6, "the three behind the first went together: 2 + 3 + 1 clips"


def test_metrics_tell_what_was_answered(model) -> None:
    bridge = Bridge(make_app([model]))
    client(bridge).score(*clips(3))
    assert bridge.web.post("/score", content=b"nonsense").status_code == 422
    text = bridge.web.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['idgrpo_answers_total{status="200"}'] == values['idgrpo_answers_total{status="422"}'] == "1"
    assert values["idgrpo_clips_scored_total"] == "3" and values["idgrpo_bytes_in_flight"] == "0"
    assert values['idgrpo_wait_seconds_bucket{le="+Inf"}'] == values["idgrpo_wait_seconds_count"] == "1"
    assert all(
        re.fullmatch(r'[a-z_]+(\{[a-z]+="[^"]*"\})? [-+.\de]+', line) for line in text.splitlines() if line[0] != "#"
    )


def test_sixty_four_clients_of_sixteen_places_are_all_answered(model) -> None:
    """Callers who find the service full wait in line: none gives up, and none of the waits counts as a failed attempt."""
    app = make_app([model], max_waiting=16)
    with listen("127.0.0.1", 0) as listener:
        stop = threading.Event()
        serving = threading.Thread(target=serve, args=(app, listener, stop.is_set))
        serving.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        request = clips(1)
        expected = model.score(*request)

        def ask(_: int) -> list:
            return RewardClient(url, attempts=2, first_wait_s=0.05).score(*request)

        with ThreadPoolExecutor(64) as callers:
            found = list(callers.map(ask, range(64)))
        stop.set()
        serving.join(30)
    assert found == [expected] * 64


def test_headers_that_are_too_large_are_refused_without_harm_to_others(model) -> None:
    app = make_app([model], limits=Limits(max_header_bytes=2000))
    with listen("127.0.0.1", 0) as listener:
        stop = threading.Event()
        serving = threading.Thread(target=serve, args=(app, listener, stop.is_set))
        serving.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert httpx.get(f"{url}/health", headers={"x-long": "y" * 10_000}).status_code == 431
        with socket.create_connection(listener.getsockname()) as endless:
            endless.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            time.sleep(0.3)
            endless.sendall(b"x-long: " + b"y" * 10_000)
            assert endless.recv(100).startswith(b"HTTP/1.1 400")
        assert httpx.get(f"{url}/health").status_code == 200
        stop.set()
        serving.join(30)

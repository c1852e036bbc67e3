"""The caller's side of the scoring service: the contract of `RewardModel.score`, retries in bounds, outages as errors."""

import os
import random
import time
from collections.abc import Callable, Sequence

import httpx

from idgrpo.errors import ArtifactError, DataError, MachineError, UsageError
from idgrpo.reward.inputs import FrameRates, References, Videos
from idgrpo.reward.score import Score
from idgrpo.reward.wire import JSON_PROTOCOL, JSON_TYPE, TYPE, pack_json, pack_request, unpack_scores

RETRIED = (429, 502, 503, 504)
FULL = (429, 503)
"""The service is well and has no place left: what a caller waits for in line, as long as its patience lasts."""
MAX_WAIT_S = 60.0
LINE_WAIT_S = 5.0
"""The longest wait between two looks at a full service."""
TOKEN_ENV = "IDGRPO_SERVICE_TOKEN"


class RewardClient:
    """Score through a service; gives the same values as the model itself."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 120.0,
        attempts: int = 5,
        first_wait_s: float = 0.5,
        model: str | None = None,
        token: str | None = None,
        patience_s: float = 3600.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Prepare a client; nothing is sent yet. `health` finds out which protocol the service speaks.

        Args:
            attempts: tries per call in all; the wait doubles from `first_wait_s`, Retry-After is respected.
            model: digest the service's model must have; None takes that of the first answer. From then on another
                model is an error, so that the scores of one run stay comparable.
            token: what the service asks for; None takes it from $IDGRPO_SERVICE_TOKEN.
            patience_s: how long a call waits in line at a service that is full; such waits are no failed attempts.
        """
        token = token or os.environ.get(TOKEN_ENV)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=url, timeout=timeout_s, transport=transport, headers=headers)
        except httpx.InvalidURL as error:
            raise UsageError(f"{url} is no address of a service: {error}", fix="http://HOST:PORT") from error
        self._patience_s = patience_s
        self._json = False
        self._attempts = attempts
        self._first_wait_s = first_wait_s
        self._model = model
        self._sleep = sleep

    def health(self) -> dict:
        """Return what the service says about itself; MachineError when it cannot be reached or is failing."""
        document = self._document(self._send("GET", "/health"))
        self._check_model(document)
        self._json = document.get("protocol") == JSON_PROTOCOL
        return document

    def score(
        self, videos: Videos, references: References, prompts: Sequence[str], fps: FrameRates = None
    ) -> list[Score]:
        """Score clips remotely; arguments and values as `RewardModel.score`.

        Raises:
            DataError: the lists differ in length, or the service refused the request or answered with nonsense.
            ArtifactError: the service runs another model than expected.
            MachineError: no answer after all attempts. Never a number in place of an answer.
        """
        if not len(videos) == len(references) == len(prompts):
            raise DataError(f"{len(videos)} videos, {len(references)} reference sets and {len(prompts)} prompts")
        pack, kind = (pack_json, JSON_TYPE) if self._json else (pack_request, TYPE)
        document = self._document(self._send("POST", "/score", pack(videos, references, prompts, fps), kind))
        self._check_model(document)
        return unpack_scores(document, len(prompts))

    def _document(self, answer: httpx.Response) -> dict:
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise DataError(f"{self._http.base_url} is no scoring service: it answered {answer.text[:80]!r}")
        return document

    def _check_model(self, document: dict) -> None:
        found = document.get("model")
        if not found:
            raise DataError(
                f"{self._http.base_url} is no scoring service: its answer names no model",
                fix="see docs/howto/own-reward.md for what a service answers",
            )
        self._model = self._model or found
        if found != self._model:
            raise ArtifactError(
                f"the service at {self._http.base_url} runs the reward model {str(found)[:19]}, this run "
                f"{str(self._model)[:19]}: the scores would not be comparable",
                fix="serve the same model, or start a new run",
            )

    def _send(self, method: str, path: str, body: bytes | None = None, kind: str = TYPE) -> httpx.Response:
        problem, attempt, waited_s, looks = "", 0, 0.0, 0
        while attempt < self._attempts:
            try:
                answer = self._http.request(method, path, content=body, headers={"Content-Type": kind})
            except httpx.RequestError as error:  # the way, or an answer that cannot be decoded
                problem, is_full, asked_s = f"{type(error).__name__} {error}".strip(), False, 0.0
            else:
                if answer.status_code == 200:
                    return answer
                problem = f"status {answer.status_code}: {answer.text[:200]}"
                if answer.status_code not in RETRIED:
                    attempt += 1
                    break
                asked_s = _seconds(answer.headers.get("Retry-After"))
                is_full = answer.status_code in FULL and "Retry-After" in answer.headers
            if is_full and waited_s < self._patience_s:
                # Waits of callers that were turned away together are spread, and grow while the line is long.
                wait_s = max(asked_s, min(self._first_wait_s * 1.5**looks, LINE_WAIT_S)) * random.uniform(1.0, 1.25)
                looks += 1
            else:
                attempt += 1
                if attempt == self._attempts:
                    break
                wait_s = max(self._first_wait_s * 2 ** (attempt - 1), asked_s)
            waited_s += wait_s
            self._sleep(wait_s)
        if problem.startswith("status 401"):
            raise UsageError(
                f"the scoring service at {self._http.base_url} asks for a token", fix=f"export {TOKEN_ENV}=.."
            )
        if problem.startswith("status 4") and not problem.startswith("status 429"):
            raise DataError(f"the scoring service refused the request ({problem})")
        raise MachineError(
            f"the scoring service at {self._http.base_url} gave no score ({problem}, {attempt} attempts)",
            fix="check it with GET /health and run again with --resume",
        )


def _seconds(retry_after: str | None) -> float:
    # The header may also hold a date; our own wait is enough then.
    return min(float(retry_after), MAX_WAIT_S) if retry_after and retry_after.isdigit() else 0.0

"""The caller's side of the scoring service: the contract of `RewardModel.score`, retries in bounds, outages as errors."""

import time
from collections.abc import Callable, Sequence

import httpx

from idgrpo.errors import ArtifactError, DataError, MachineError
from idgrpo.reward.inputs import FrameRates, References, Videos
from idgrpo.reward.score import Score
from idgrpo.reward.wire import TYPE, pack_request, unpack_scores

RETRIED = (429, 502, 503, 504)
MAX_WAIT_S = 60.0


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
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Prepare a client; nothing is sent yet.

        Args:
            attempts: tries per call in all; the wait doubles from `first_wait_s`, Retry-After is respected.
            model: digest the service's model must have; None takes that of the first answer. From then on another
                model is an error, so that the scores of one run stay comparable.
        """
        self._http = httpx.Client(base_url=url, timeout=timeout_s, transport=transport)
        self._attempts = attempts
        self._first_wait_s = first_wait_s
        self._model = model
        self._sleep = sleep

    def health(self) -> dict:
        """Return what the service says about itself; MachineError when it cannot be reached or is failing."""
        document = self._document(self._send("GET", "/health"))
        self._check_model(document)
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
        document = self._document(self._send("POST", "/score", pack_request(videos, references, prompts, fps)))
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
        self._model = self._model or found
        if not found or found != self._model:
            raise ArtifactError(
                f"the service at {self._http.base_url} runs the reward model {str(found)[:19]}, this run "
                f"{str(self._model)[:19]}: the scores would not be comparable",
                fix="serve the same model, or start a new run",
            )

    def _send(self, method: str, path: str, body: bytes | None = None) -> httpx.Response:
        problem = ""
        for attempt in range(self._attempts):
            wait_s = self._first_wait_s * 2**attempt
            try:
                answer = self._http.request(method, path, content=body, headers={"Content-Type": TYPE})
            except httpx.TransportError as error:
                problem = f"{type(error).__name__} {error}".strip()
            else:
                if answer.status_code == 200:
                    return answer
                problem = f"status {answer.status_code}: {answer.text[:200]}"
                if answer.status_code not in RETRIED:
                    break
                wait_s = max(wait_s, _seconds(answer.headers.get("Retry-After")))
            if attempt + 1 < self._attempts:
                self._sleep(wait_s)
        if problem.startswith("status 4") and not problem.startswith("status 429"):
            raise DataError(f"the scoring service refused the request ({problem})")
        raise MachineError(
            f"the scoring service at {self._http.base_url} gave no score ({problem}, {attempt + 1} attempts)",
            fix="check it with GET /health and run again with --resume",
        )


def _seconds(retry_after: str | None) -> float:
    # The header may also hold a date; our own wait is enough then.
    return min(float(retry_after), MAX_WAIT_S) if retry_after and retry_after.isdigit() else 0.0

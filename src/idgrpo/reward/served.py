"""What a scoring service did so far, as text that Prometheus reads (its text format, version 0.0.4)."""

import bisect
import threading
from collections import Counter
from collections.abc import Mapping

TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Histogram:
    """Counts durations in seconds by upper bounds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect.bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds

    def lines(self, name: str, text: str) -> list[str]:
        """Write it as Prometheus wants it: cumulative buckets, sum and count."""
        found, below = [f"# HELP {name} {text}", f"# TYPE {name} histogram"], 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self.counts, strict=True):
            below += count
            found.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*found, f"{name}_sum {self.total_s:.6f}", f"{name}_count {below}"]


class ServiceFigures:
    """Counters of a service; threads may add at the same time."""

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()  # by status
        self.num_scored = 0
        self.num_failed = 0  # clips that got a reason instead of a score
        self.num_calls = 0  # of the model; fewer than requests where requests are joined
        self.waiting, self.scoring = Histogram(), Histogram()
        self._lock = threading.Lock()

    def answered(self, status: int) -> None:
        """Count an answer."""
        with self._lock:
            self.answers[status] += 1

    def called(self, waits_s: list[float], took_s: float) -> None:
        """Count one call of a model, with how long its requests had waited for it."""
        with self._lock:
            self.num_calls += 1
            self.scoring.add(took_s)
            for wait_s in waits_s:
                self.waiting.add(wait_s)

    def scored(self, num: int, num_failed: int) -> None:
        """Count the clips of one answer."""
        with self._lock:
            self.num_scored += num
            self.num_failed += num_failed

    def text(self, gauges: Mapping[str, tuple[float, str]]) -> str:
        """Write everything; gauges: name -> value now and what it means."""
        with self._lock:
            lines = [
                "# HELP idgrpo_answers_total Answers to POST /score by status.",
                "# TYPE idgrpo_answers_total counter",
            ]
            lines += [
                f'idgrpo_answers_total{{status="{status}"}} {num}' for status, num in sorted(self.answers.items())
            ]
            counters = {
                "idgrpo_clips_scored_total": (self.num_scored, "Clips answered, with a score or a reason."),
                "idgrpo_clips_failed_total": (self.num_failed, "Clips answered with a reason instead of a score."),
                "idgrpo_model_calls_total": (self.num_calls, "Calls of a model."),
            }
            for kind, values in (("counter", counters), ("gauge", gauges)):
                for name, (value, text) in values.items():
                    lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value:g}"]
            lines += self.waiting.lines("idgrpo_wait_seconds", "Time from a whole request to its call of a model.")
            lines += self.scoring.lines("idgrpo_scoring_seconds", "Time of a call of a model.")
        return "\n".join(lines) + "\n"

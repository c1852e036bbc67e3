"""What stands on stderr while work goes on: a bar with time left on a terminal, otherwise a line every ten seconds."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

LINE_EVERY_S = 10.0
RECENT_STEPS = 20  # the speed is theirs, however long they took


class ProgressBar:
    """What a stage advances; figures given with it are shown behind the bar."""

    def __init__(self, total: int, label: str, unit: str):
        self.total, self.label, self.unit = total, label, unit
        self.done, self.figures, self.doing = 0, "", ""
        self._started = self._shown = time.monotonic()
        self._first = 0
        self._recent: deque[tuple[float, int]] = deque([(self._started, 0)], maxlen=RECENT_STEPS + 1)

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """Count `n` more as done."""
        if not self.done and time.monotonic() - self._started < 0.05 and n > 1:
            self._first = n  # what an earlier run had finished must not count as speed
            self._recent.clear()
        self.done += n
        self._recent.append((time.monotonic(), self.done))
        if figures:
            self.figures = " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
        self._show()

    def phase(self, name: str) -> None:
        """Say which part of a step is under way; '' when it is over."""
        self.doing = name
        self._show()

    def eta_s(self) -> float | None:
        """Seconds left at the speed of the last steps, less what the step under way has taken; None while nothing is known."""
        (first_s, first), (last_s, last) = self._recent[0], self._recent[-1]
        if last <= first or self.done <= self._first:
            return None
        each = (last_s - first_s) / (last - first)
        under_way = min(time.monotonic() - last_s, each)
        return max(each * (self.total - self.done) - under_way, 0.0)

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown >= LINE_EVERY_S or (self.done >= self.total and now - self._started > 1):
            self._shown = now
            left = self.eta_s()
            eta = f", {duration(left)} left" if left is not None and self.done < self.total else ""
            doing = f", {self.doing}" if self.doing else ""
            line = f"{self.label}: {self.done}/{self.total} {self.unit}{doing}{eta} {self.figures}"
            sys.stderr.write(line.rstrip() + "\n")


def duration(seconds: float) -> str:
    """Write a time shortly: 42 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class _Silent(ProgressBar):
    def _show(self) -> None:
        pass


class _RichBar(ProgressBar):
    def __init__(self, total: int, label: str, unit: str):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
        from rich.text import Text

        super().__init__(total, label, unit)
        bar = self

        class Left(ProgressColumn):
            """Time left by our own speed: the library forgets steps after 30 seconds, and ours may take hours."""

            def render(self, task: Task) -> Text:
                left = bar.eta_s()
                return Text("" if left is None or bar.done >= bar.total else f"{duration(left)} left", style="cyan")

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Left(),
            TextColumn("{task.fields[doing]}", style="dim"),
            TextColumn("{task.fields[figures]}"),
        )
        self.rich = Progress(*columns, console=Console(stderr=True))
        self.task = self.rich.add_task(label, total=total, figures="", doing="")

    def _show(self) -> None:
        self.rich.update(self.task, completed=self.done, figures=self.figures, doing=self.doing)


@contextmanager
def progress(total: int, label: str, unit: str = "", *, shown: bool = True) -> Iterator[ProgressBar]:
    """Show progress of `total` steps while entered; of ranks that work in step only the main one shows it."""
    if not shown:
        yield _Silent(total, label, unit)
        return
    if not sys.stderr.isatty():
        yield ProgressBar(total, label, unit)
        return
    bar = _RichBar(total, label, unit)
    with bar.rich:
        yield bar


def tell(line: str) -> None:
    """Say something to whoever watches the work; results go elsewhere."""
    sys.stderr.write(line + "\n")

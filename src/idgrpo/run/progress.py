"""Progress on stderr: a bar with time left on a terminal, otherwise a line every ten seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LINE_EVERY_S = 10.0


class ProgressBar:
    """What a stage advances; figures given with it are shown behind the bar."""

    def __init__(self, total: int, label: str, unit: str):
        self.total, self.label, self.unit = total, label, unit
        self.done, self.figures = 0, ""
        self._started = self._shown = time.monotonic()
        self._first = 0

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """Count `n` more as done."""
        if not self.done and time.monotonic() - self._started < 0.05 and n > 1:
            self._first = n  # what an earlier run had finished must not count as speed
        self.done += n
        if figures:
            self.figures = " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
        self._show()

    def eta_s(self) -> float | None:
        """Seconds left at the speed so far, None while nothing is known."""
        made = self.done - self._first
        if made <= 0:
            return None
        return (time.monotonic() - self._started) / made * max(self.total - self.done, 0)

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown >= LINE_EVERY_S or (self.done >= self.total and now - self._started > 1):
            self._shown = now
            left = self.eta_s()
            eta = f", {left:.0f} s left" if left is not None and self.done < self.total else ""
            sys.stderr.write(f"{self.label}: {self.done}/{self.total} {self.unit}{eta} {self.figures}".rstrip() + "\n")


class _RichBar(ProgressBar):
    def __init__(self, total: int, label: str, unit: str):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(total, label, unit)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.rich = Progress(*columns, console=Console(stderr=True))
        self.task = self.rich.add_task(label, total=total, figures="")

    def _show(self) -> None:
        self.rich.update(self.task, completed=self.done, figures=self.figures)


@contextmanager
def progress(total: int, label: str, unit: str = "") -> Iterator[ProgressBar]:
    """Show progress of `total` steps while entered."""
    if not sys.stderr.isatty():
        yield ProgressBar(total, label, unit)
        return
    bar = _RichBar(total, label, unit)
    with bar.rich:
        yield bar


def tell(line: str) -> None:
    """Say something to whoever watches the work; results go elsewhere."""
    sys.stderr.write(line + "\n")

"""Stopping cleanly: a signal asks, the loop decides when."""

import contextlib
import ctypes
import signal
import threading
from types import FrameType, TracebackType

from idgrpo.errors import StoppedError

PR_SET_PDEATHSIG = 1


class StopSignal:
    """While entered, SIGTERM and the first SIGINT only set `requested`; a second SIGINT interrupts at once.

    One inside another passes what it noticed on when it is left, so that a stop in the last moment of a stage reaches the
    loop around it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
            around = getattr(handler, "__self__", None)
            if self.requested and isinstance(around, StopSignal):
                around.requested = True
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def check(self) -> None:
        """Raise StoppedError if a stop was asked for."""
        if self.requested:
            raise StoppedError("stopped by a signal; what is finished is kept", fix="run the same command again")


def stop_with_parent() -> None:
    """Ask the kernel to send SIGTERM to this process when its parent dies (Linux; elsewhere nothing happens)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

"""stdout and stderr that whoever reads them may leave: the work goes on, and its exit code tells how it ended."""

import atexit
import contextlib
import errno
import io
import os
import sys
from typing import NoReturn, TextIO

GONE = {errno.EPIPE, errno.EBADF, errno.EIO, errno.ESTALE}


class _Tolerant(io.RawIOBase):
    """The writing end of a descriptor: when nobody reads it any more, what is written is dropped.

    Another failure, such as a full disk behind `> file`, is raised once where `raises` is set; what follows is dropped, so
    that the interpreter does not fail again when it ends.
    """

    def __init__(self, descriptor: int, *, raises: bool):
        super().__init__()
        self.descriptor, self.raises, self.is_gone = descriptor, raises, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data) -> int:  # type: ignore[no-untyped-def,override]
        if not self.is_gone:
            try:
                return os.write(self.descriptor, data)
            except OSError as error:
                # Libraries write to the descriptor itself: they must not meet the error either.
                self.is_gone = True
                _to_nowhere(self.descriptor)
                if self.raises and error.errno not in GONE:
                    raise
        return len(data)


def leave(code: int) -> NoReturn:
    """End this process. A rank of a job leaves without taking the interpreter down, which threads of its libraries do not survive."""
    if "RANK" not in os.environ:
        sys.exit(code)
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def outlive_readers() -> None:
    """Make stdout and stderr of this process safe against readers that go, and against being closed from the start.

    A closed descriptor is opened on nothing first: the next file that is opened would get its number, and with it all
    that libraries write to stdout or stderr.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _to_nowhere(descriptor)
    sys.stdout = _text(1, sys.stdout, raises=True)
    sys.stderr = _text(2, sys.stderr, raises=False)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc,assignment]


def _text(descriptor: int, before: TextIO | None, *, raises: bool) -> TextIO:
    if before is not None:
        before.flush()
        before.detach()  # type: ignore[attr-defined]  # or it closes the descriptor when it is collected
    raw = _Tolerant(descriptor, raises=raises)
    encoding = getattr(before, "encoding", None) or "utf-8"
    at_once = descriptor == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=at_once)


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)

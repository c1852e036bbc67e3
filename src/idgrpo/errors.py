"""Errors that users see: what went wrong, where, and what to do; each kind has one exit code."""

import errno
import os


class IdgrpoError(Exception):
    """An error with a message for people; `fix` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str | None = None):
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


class UsageError(IdgrpoError):
    """Wrong option, configuration key or value."""

    exit_code = 2


class DataError(IdgrpoError):
    """Input data that cannot be used; the message names file, line and field."""

    exit_code = 3


class ArtifactError(IdgrpoError):
    """An artifact that is missing, ambiguous or damaged."""

    exit_code = 4


class BusyError(IdgrpoError):
    """Another process holds the run or the store entry."""

    exit_code = 5


class MachineError(IdgrpoError):
    """What the machine lacks: memory, disk, GPU, weights, an optional package."""

    exit_code = 6


class StoppedError(IdgrpoError):
    """Stopped cleanly with a checkpoint; run again with `--resume`."""

    exit_code = 75


# What the machine refuses, whatever we do.
REFUSED = {
    errno.EROFS: "choose another place with --store or --out",
    errno.EACCES: "choose a place of yours, or ask for the right to use this one",
    errno.EPERM: "choose a place of yours, or ask for the right to use this one",
    errno.ENAMETOOLONG: "use a shorter name or folder",
    errno.ELOOP: "mend the links on this path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "look at the disk",
    errno.ESTALE: "look at the network's disk",
}
# How libraries that hide the error number (safetensors, FFmpeg, SQLite) tell a full disk, a used-up quota, a file over the limit.
FULL_DISK = ("No space left on device", "Disk quota exceeded", "File too large", "database or disk is full")


def machine_error(error: Exception) -> MachineError | None:
    """Recognise a full disk, a GPU out of memory and what the system refuses, also as causes; None for anything else."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            where = f" while writing {cause.filename}" if cause.filename else ""
            return MachineError(
                f"the disk is full{where}; nothing half-written was kept", fix="free some space and run again"
            )
        if isinstance(cause, OSError) and cause.errno in REFUSED:
            place = f"{cause.filename}: " if cause.filename else ""
            return MachineError(f"{place}{os.strerror(cause.errno)}", fix=REFUSED[cause.errno])
        if type(cause).__name__ == "OutOfMemoryError":
            return MachineError(
                f"out of GPU memory: {str(cause).splitlines()[0]}",
                fix="use a smaller batch or size (--dry-run shows needs)",
            )
        if any(text in str(cause) for text in FULL_DISK):
            return MachineError("the disk is full; nothing half-written was kept", fix="free some space and run again")
        cause = cause.__cause__ or cause.__context__
    return None

"""Errors that users see: what went wrong, where, and what to do; each kind has one exit code.

The first line of a class says what its exit code means, `remedy` what a user does then; `fix` of an error is more precise.
"""

import errno
import logging
import os
import re


class IdgrpoError(Exception):
    """The work failed, or a gate of `eval` is not met."""

    exit_code = 1
    remedy = "read the message; with a gate, open the report that was written all the same"

    def __init__(self, message: str, *, fix: str | None = None):
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


class UsageError(IdgrpoError):
    """Wrong option, configuration key or value."""

    exit_code = 2
    remedy = "mend the option or the key that the message names; `idgrpo COMMAND --help`, `idgrpo config show STAGE`"


class DataError(IdgrpoError):
    """Input data that cannot be used; the message names file, line and field."""

    exit_code = 3
    remedy = "mend the line that the message names; `train-rm --skip-invalid` puts bad lines aside"


class ArtifactError(IdgrpoError):
    """An artifact that is missing, ambiguous or damaged."""

    exit_code = 4
    remedy = "make it with the command that the message names; `idgrpo artifacts list`, `idgrpo artifacts verify`"


class BusyError(IdgrpoError):
    """Another process holds the run or the store entry."""

    exit_code = 5
    remedy = "wait for the other process, or choose another --name or --store"


class MachineError(IdgrpoError):
    """What the machine lacks: memory, disk, GPU, weights, an optional package."""

    exit_code = 6
    remedy = "do what the message says, then `idgrpo doctor`; --dry-run shows what a command needs"


class StoppedError(IdgrpoError):
    """Stopped cleanly with a checkpoint."""

    exit_code = 75
    remedy = "run the same command again: it goes on from the checkpoint"


INTERRUPTED = 130
"""Exit code after Ctrl-C where nothing catches it."""


def exit_codes() -> dict[int, tuple[str, str]]:
    """Give every exit code with what it means and what to do then."""
    kinds: list[type[IdgrpoError]] = [IdgrpoError]
    kinds += [kind for kind in IdgrpoError.__subclasses__() if kind.__module__ == __name__]
    table = {kind.exit_code: ((kind.__doc__ or "").rstrip("."), kind.remedy) for kind in kinds}
    return {
        0: ("Done", ""),
        **table,
        INTERRUPTED: ("Interrupted", "run the same command again; finished parts are kept"),
    }


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
# How torch.distributed tells that a rank has gone.
LOST_RANK = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "ncclRemoteError")


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


def lost_process(what: str) -> IdgrpoError:
    """Make the error for work that lost a process which took part in it."""
    return IdgrpoError(
        f"another process that took part in the work has gone ({what})",
        fix="run the same command again: what is finished is kept",
    )


def rank_error(error: Exception) -> IdgrpoError | None:
    """Recognise what gloo and NCCL say where another rank of the job has gone; None for anything else."""
    if isinstance(error, RuntimeError) and any(text in str(error) for text in LOST_RANK):
        said = str(error).strip().splitlines()[0].partition(". This is typically")[0]
        return lost_process(re.sub(r"^\[\S+\.cc:\d+\] ", "", said))  # the line of their source
    return None


NOISY = ("torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer", "bitsandbytes.backends.cpu.ops")
"""Where a library that quantises is installed, others import it with every model, and it talks about its own future."""


def silence_libraries() -> None:
    """Keep warnings off stderr that users can do nothing about."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)

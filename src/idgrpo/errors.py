"""Errors that users see: what went wrong, where, and what to do; each kind has one exit code."""


class IdgrpoError(Exception):
    """An error with a message for people; `fix` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str | None = None):
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


class GateError(IdgrpoError):
    """A gate such as `eval --min identity=0.4` was not met."""


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

"""The only place that writes to stdout: a summary for people, a reference for scripts, or one JSON document."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `idgrpo --help` needs none of it
    from idgrpo.stages import Artifact, Plan
    from idgrpo.stages.work import Task


def carry_out(
    task: "Task",
    result: "Callable[[Artifact], Plan]",
    *,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    nproc: int = 1,
) -> None:
    """Print the plan of a stage, or run it in `nproc` processes and print its result."""
    if dry_run:
        told = task.plan()
        finish(summary=told.summary, document=told.document, artifact=None, quiet=quiet, as_json=as_json)
        return
    if nproc > 1 and not task.is_done():
        from idgrpo.cli.options import launch_ranks

        launch_ranks(nproc)
    artifact = task.run()
    told = result(artifact)
    finish(summary=told.summary, document=told.document, artifact=artifact, quiet=quiet, as_json=as_json)


def finish(
    *, summary: Sequence[str] | Any, document: dict[str, Any], artifact: "Artifact | None", quiet: bool, as_json: bool
) -> None:
    """Print the result of a command.

    Args:
        summary: lines, or something that rich can draw.
        document: what `--json` prints.
        artifact: what `--quiet` names.
    """
    from idgrpo.stages.work import is_main_rank

    if not is_main_rank():  # other ranks of a job have nothing to tell
        return
    if as_json:
        write_json(document)
    elif quiet:
        sys.stdout.write(f"{artifact.ref}\n" if artifact is not None else "")
    elif isinstance(summary, Sequence):
        write_lines(summary)
    else:
        from rich.console import Console

        Console(file=sys.stdout).print(summary)
    sys.stdout.flush()


def write_lines(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        sys.stdout.write(f"{line}\n")


def write_json(document: dict[str, Any]) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def fail(error: BaseException, exit_code: int, *, as_json: bool) -> int:
    """Tell an error: for people on stderr, and with `--json` as a document on stdout. Returns the exit code."""
    message = getattr(error, "message", str(error)) or type(error).__name__
    fix = getattr(error, "fix", None)
    sys.stderr.write(f"error: {message}\n" + (f"  fix: {fix}\n" if fix else ""))
    if as_json:
        write_json({"error": {"kind": type(error).__name__, "message": message, "fix": fix}, "exit_code": exit_code})
    return exit_code

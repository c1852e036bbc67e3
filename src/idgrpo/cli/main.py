"""The entry point: commands are imported when they are called, and every failure becomes a message and an exit code."""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from idgrpo import __version__
from idgrpo.cli import COMMANDS
from idgrpo.cli.output import fail
from idgrpo.cli.streams import leave, outlive_readers
from idgrpo.errors import (
    INTERRUPTED,
    IdgrpoError,
    MachineError,
    UsageError,
    lost_process,
    machine_error,
    rank_error,
    silence_libraries,
)


def overview() -> str:
    """Write the help of the program, from the registry alone."""
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(
        [
            "Usage: idgrpo COMMAND [OPTIONS]",
            "",
            "Align identity-preserving video generators with human feedback, so that several people",
            "in one video keep their identities.",
            "",
            "Commands:",
            *(f"  {name:<{width}}{short}" for name, (_, short) in COMMANDS.items()),
            "",
            "Options:",
            "  --version   Print the version.",
            "  -h, --help  Show this message, or with a command the help of that command.",
            "  --install-completion [SHELL]  Complete words by the tabulator key (bash, zsh, fish).",
            "",
            "`idgrpo help COMMAND` and `idgrpo version` say the same.",
            "",
        ]
    )


def load_command(name: str) -> Any:
    """Import a command's module and turn its function (or typer app) into a click command."""
    import typer

    target, _ = COMMANDS[name]
    module, _, attribute = target.partition(":")
    function = getattr(import_module(module), attribute)
    if isinstance(function, typer.Typer):
        return typer.main.get_command(function)
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.command(name, help=function.__doc__)(function)
    return typer.main.get_command(app)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code (docs/reference/exit-codes.md)."""
    arguments = without_local_rank(arguments)
    as_json = "--json" in arguments
    try:
        return _dispatch(arguments)
    except IdgrpoError as error:
        return fail(error, error.exit_code, as_json=as_json)
    except KeyboardInterrupt:
        return fail(KeyboardInterrupt("interrupted"), INTERRUPTED, as_json=as_json)
    except SystemExit as error:
        if not type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):
            return int(error.code or 0)
        # The command-line library takes every broken pipe for a closed stdout. Ours breaks no pipe (see streams.py), so the
        # work lost a worker or a service: that is a failure.
        sys.stdout, sys.stderr = sys.stdout.wrapped, sys.stderr.wrapped  # type: ignore[union-attr]
        lost = lost_process(str(error.__context__ or "broken pipe"))
        return fail(lost, lost.exit_code, as_json=as_json)
    except MemoryError:
        full = MachineError("not enough memory", fix="use a smaller batch")
        return fail(full, full.exit_code, as_json=as_json)
    except Exception as error:
        known = _usage_error(error, arguments) or machine_error(error) or rank_error(error)
        if known is None:
            if as_json:
                fail(error, IdgrpoError.exit_code, as_json=True)
            raise
        return fail(known, known.exit_code, as_json=as_json)


def without_local_rank(arguments: Sequence[str]) -> list[str]:
    """Drop the `--local_rank=N` (or `--local_rank N`) that the deepspeed launcher puts first; LOCAL_RANK says it too."""
    first, *rest = arguments or [""]
    if first.startswith("--local_rank="):
        return rest
    return rest[1:] if first == "--local_rank" else list(arguments)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(overview())
        return 0 if arguments else UsageError.exit_code
    name, *rest = arguments
    if name == "help":
        return _dispatch([*rest, "--help"])
    if name in ("--version", "version"):
        sys.stdout.write(f"idgrpo {__version__}\n")
        return 0
    if name == "--install-completion":
        return import_module("idgrpo.cli.completion").install(rest, load_command)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        kind = "option" if name.startswith("-") else "command"
        raise UsageError(
            f"there is no {kind} '{name}'",
            fix=f"did you mean '{near[0]}'?" if near else f"commands: {', '.join(COMMANDS)}",
        )
    if not os.path.exists("/dev/nvidiactl"):
        # Without it DeepSpeed, which diffusers and transformers import, warns on stdout that it found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    silence_libraries()
    result = load_command(name).main(args=rest, prog_name=f"idgrpo {name}", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _usage_error(error: Exception, arguments: list[str]) -> IdgrpoError | None:
    """Recognise the command-line library's own errors (it may come under two module names, so by their shape)."""
    if type(error).__name__ == "Abort":
        return IdgrpoError("interrupted")
    if not hasattr(error, "format_message"):
        return None
    return UsageError(error.format_message(), fix=f"`idgrpo {arguments[0]} --help` lists the options")


def main() -> None:
    """Run the command line of this process."""
    outlive_readers()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:  # the work is done, but nobody can read its result where it was to be written
        code = code or fail(
            machine_error(error) or MachineError(f"stdout: {error}"), MachineError.exit_code, as_json=False
        )
    leave(code)

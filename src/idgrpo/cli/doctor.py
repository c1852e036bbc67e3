"""`idgrpo doctor`: what this machine has, what is missing, and what to do about it."""

from typing import Annotated

import typer

from idgrpo.cli.options import JsonOption, StoreOption
from idgrpo.cli.output import write_json, write_lines
from idgrpo.errors import MachineError
from idgrpo.stages.machine import check_machine

BaseOption = Annotated[
    list[str] | None, typer.Option("--base", help="Also look for the weights of these bases. Default: all.")
]


def command(base: BaseOption = None, store: StoreOption = None, as_json: JsonOption = False) -> int:
    """Check machine, libraries, codecs and weights; exit 6 when something the embedded world needs is missing."""
    rows = check_machine(base, store=store)
    broken = [row for row in rows if not row["ok"] and row["needed"]]
    code = MachineError.exit_code if broken else 0
    if as_json:
        write_json({"checks": rows, "ok": not broken, "exit_code": code})
    else:
        write_lines(
            f"{'ok  ' if row['ok'] else 'MISS' if row['needed'] else '-   '} {row['what']:<24} {row['found']}"
            + (f"\n       do: {row['do']}" if row["do"] and not row["ok"] else "")
            + "".join(f"\n       {note}" for note in row.get("notes", ()))
            for row in rows
        )
    return code

"""`idgrpo artifacts serve`: a reward model that scores over HTTP for other machines."""

import sys
from typing import Annotated

import typer

from idgrpo.cli.options import StoreOption, open_store
from idgrpo.cli.output import write_lines
from idgrpo.stages.serving import serve_rm


def serve(
    ref: Annotated[str, typer.Argument(help="The reward model: rm, rm@v3, rm:best, or a folder.")] = "rm",
    device: Annotated[
        list[str] | None, typer.Option(help="cpu, cuda, cuda:1; repeat for several. Default: the GPU if there is one.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. With $IDGRPO_SERVICE_TOKEN set, callers need the same token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8300,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests at a time; further callers wait in line.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Clips scored at once on a device.")] = 16,
    join: Annotated[
        int,
        typer.Option(
            min=0, help="Clips of several waiting requests scored in one call: faster, last digits vary. 0: never."
        ),
    ] = 0,
    names: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Further name of this machine that callers use; repeat.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Score over HTTP until stopped; prints the address. Callers use it as `--rm http://host:port`."""

    def show(address: str) -> None:
        write_lines([address])
        sys.stdout.flush()

    serve_rm(
        ref, devices=device or (), host=host, port=port, max_waiting=max_waiting, batch=batch, join=join, names=names or (), store=open_store(store),
        tell_address=show, tell=lambda line: typer.echo(line, err=True),
    )  # fmt: skip

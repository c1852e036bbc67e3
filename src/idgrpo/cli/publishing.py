"""`idgrpo artifacts push`: a policy with its model card to a hub."""

from typing import Annotated

import typer

from idgrpo.cli.options import DryRunOption, JsonOption, StoreOption, open_store
from idgrpo.cli.output import finish
from idgrpo.stages.push import push as push_policy


def push(
    ref: Annotated[str, typer.Argument(help="A policy: a reference of the store, or a folder.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository of a model hub.")],
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. Default: as it is.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public. Default: private.")] = False,
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Upload a policy's adapter with its settings and a model card to a hub."""
    told = push_policy(ref, repository, dtype=dtype, private=not public, dry_run=dry_run, store=open_store(store))
    finish(summary=told.summary, document=told.document, artifact=None, quiet=False, as_json=as_json)

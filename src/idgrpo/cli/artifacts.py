"""`idgrpo artifacts`: what is in the store, what it was made from, whether it is whole."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from idgrpo.cli import exchange
from idgrpo.cli.artifacts_cases import describe_people
from idgrpo.cli.artifacts_out import export, prune
from idgrpo.cli.artifacts_rm import import_rm, serve
from idgrpo.cli.options import JsonOption, QuietOption, StoreOption

if TYPE_CHECKING:
    from idgrpo.store.artifact import Artifact
    from idgrpo.store.store import Store

command = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="List, explain, check, tag and serve artifacts; preferences to and from other formats.",
    pretty_exceptions_enable=False,
)

command.command("describe-people")(describe_people)
command.command("export")(export)
command.command("prune")(prune)
command.command("import-preferences")(exchange.import_preferences)
command.command("import-rm")(import_rm)
command.command("serve")(serve)

KindArgument = Annotated[
    str | None, typer.Argument(help="cases, samples, pairs, votes, preferences, rm, policy or report.")
]
RefArgument = Annotated[str, typer.Argument(help="rm, rm@v3, rm/name@v3, rm:best, rm@sha256:.., or a folder.")]


def _open(store: str | None) -> "Store":
    from idgrpo.store.store import Store

    return Store(Path(store)) if store else Store.default()


def _row(artifact: "Artifact") -> dict[str, object]:
    manifest = artifact.manifest
    size = sum(entry.size_bytes for entry in manifest.files.values())
    return {
        "ref": artifact.ref,
        "created_utc": manifest.created_utc,
        "num_files": len(manifest.files),
        "size_bytes": size,
        "digest": manifest.digest,
    }


@command.command("list")
def list_(
    kind: KindArgument = None, store: StoreOption = None, quiet: QuietOption = False, as_json: JsonOption = False
) -> None:
    """List artifacts, newest first."""
    from idgrpo.cli.output import write_json, write_lines

    found = _open(store).list(kind)
    if quiet:
        write_lines(artifact.ref for artifact in found)
    elif as_json:
        write_json({"artifacts": [_row(artifact) for artifact in found]})
    else:
        rows = map(_row, found)
        write_lines(
            f"{row['ref']:<44} {row['created_utc']}  {row['num_files']:>6} files  {_mib(row['size_bytes'])}"
            for row in rows
        )


@command.command()
def show(ref: RefArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show the manifest: files, inputs, configuration, command, metrics."""
    from idgrpo.cli.output import write_json, write_lines
    from idgrpo.run.flatten import flatten

    artifact = _open(store).resolve(ref)
    manifest = artifact.manifest
    document = manifest.model_dump(mode="json") | {"ref": artifact.ref, "path": str(artifact.path)}
    if as_json:
        write_json(document)
        return
    write_lines(
        [
            f"{artifact.ref}   {manifest.digest}",
            f"path     {artifact.path}",
            f"made     {manifest.created_utc} in {manifest.seconds:.0f} s by idgrpo {manifest.code_version}: {' '.join(manifest.command)}",
            *(f"input    {key} = {entry.ref}" for key, entry in manifest.inputs.items()),
            *(f"config   {key} = {value}" for key, value in flatten(manifest.config)),
            *(f"metric   {key} = {value}" for key, value in flatten(manifest.metrics)),
            f"files    {len(manifest.files)}, {_mib(sum(entry.size_bytes for entry in manifest.files.values()))}",
        ]
    )


@command.command()
def lineage(ref: RefArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show what an artifact was made from, down to the first inputs."""
    from idgrpo.cli.output import write_json, write_lines

    shelf = _open(store)
    steps = list(shelf.lineage(shelf.resolve(ref)))
    if as_json:
        write_json(
            {"lineage": [{"depth": depth, "ref": name, "found": found is not None} for depth, name, found in steps]}
        )
        return
    write_lines(
        f"{'  ' * depth}{name}"
        + (f"   <- {' '.join(found.manifest.command)}" if found is not None else "   (a file, or no longer there)")
        for depth, name, found in steps
    )


@command.command()
def verify(
    refs: Annotated[list[str] | None, typer.Argument(help="Artifacts; none given: all of the store.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every byte and compare with the manifest; exit 4 names the first file that has changed."""  # fmt: skip
    from idgrpo.cli.output import write_json, write_lines

    shelf = _open(store)
    found = [shelf.resolve(ref) for ref in refs] if refs else shelf.list()
    checked = []
    for artifact in found:
        artifact.verify()
        checked.append(artifact.ref)
    if as_json:
        write_json({"whole": checked})
    else:
        write_lines([*checked, f"{len(checked)} artifacts are whole"])


@command.command()
def tag(
    ref: RefArgument, name: Annotated[str, typer.Argument(help="The tag, such as best.")], store: StoreOption = None
) -> None:
    """Give an artifact a name of its own: afterwards `kind:tag` means it."""
    from idgrpo.cli.output import write_lines

    shelf = _open(store)
    artifact = shelf.resolve(ref)
    shelf.tag(artifact, name)
    write_lines([f"{artifact.kind}:{name} -> {artifact.ref}"])


def _mib(size_bytes: object) -> str:
    return f"{float(str(size_bytes)) / 2**20:.1f} MiB"

"""`idgrpo artifacts`: what is in the store, what it was made from, whether it is whole."""

from typing import Annotated

import typer

from idgrpo.cli import exchange, serving
from idgrpo.cli.options import DryRunOption, JsonOption, QuietOption, StoreOption, open_store
from idgrpo.cli.output import write_json, write_lines
from idgrpo.stages import Artifact
from idgrpo.stages.lineage import tree_lines
from idgrpo.stages.upkeep import flatten, prune_store, whole

command = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="List, explain, check, tag and serve artifacts; preferences to and from other formats.",
    pretty_exceptions_enable=False,
)

command.command("describe-people")(exchange.describe)
command.command("export")(exchange.export)
command.command("import-preferences")(exchange.import_)
command.command("import-rm")(exchange.import_reward_model)
command.command("serve")(serving.serve)

KindArgument = Annotated[
    str | None, typer.Argument(help="cases, samples, pairs, votes, preferences, rm, policy or report.")
]
RefArgument = Annotated[str, typer.Argument(help="rm, rm@v3, rm/name@v3, rm:best, rm@sha256:.., or a folder.")]


def _row(artifact: Artifact) -> dict[str, object]:
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
    found = whole(open_store(store).list(kind))
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
    artifact = open_store(store).resolve(ref)
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
    """Show what an artifact was made from, down to the first inputs, as a tree."""
    opened = open_store(store)
    steps = list(opened.lineage(opened.resolve(ref)))
    if as_json:
        told = [{"depth": s.depth, "ref": s.ref, "found": s.artifact is not None, "roles": s.roles} for s in steps]
        write_json({"lineage": told})
        return
    write_lines(tree_lines(steps))


@command.command()
def verify(
    refs: Annotated[list[str] | None, typer.Argument(help="Artifacts; none given: all of the store.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every byte and compare with the manifest; exit 4 names the first file that has changed."""  # fmt: skip
    opened = open_store(store)
    checked = list(whole([opened.resolve(ref) for ref in refs] if refs else opened.list(), every_byte=True))
    if as_json:
        write_json({"whole": [artifact.ref for artifact in checked]})
    else:
        write_lines([*(artifact.ref for artifact in checked), f"{len(checked)} artifacts are whole"])


@command.command()
def tag(
    ref: RefArgument, name: Annotated[str, typer.Argument(help="The tag, such as best.")], store: StoreOption = None
) -> None:
    """Give an artifact a name of its own: afterwards `kind:tag` means it."""
    opened = open_store(store)
    artifact = opened.resolve(ref)
    opened.tag(artifact, name)
    write_lines([f"{artifact.kind}:{name} -> {artifact.ref}"])


@command.command()
def prune(
    kind: Annotated[str | None, typer.Argument(help="Only this kind, such as samples. Default: all.")] = None,
    keep: Annotated[int, typer.Option(min=1, help="Versions of each name that stay, newest first.")] = 1,
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove old versions. What is tagged, in use, or what anything kept was made from, stays."""
    chosen = prune_store(open_store(store), kind, keep=keep, dry_run=dry_run)
    removed, verb = [artifact.ref for artifact in chosen.removed], "would remove" if dry_run else "removed"
    if as_json:
        write_json({"dry_run": dry_run, "removed": removed, "kept": chosen.kept, "size_bytes": chosen.size_bytes})
        return
    write_lines(f"{verb} {ref}" for ref in removed)
    write_lines(f"keeps {ref}: {reason}" for ref, reason in chosen.kept.items())
    write_lines([f"{verb} {len(removed)} artifacts, {_mib(chosen.size_bytes)}"])


def _mib(size_bytes: object) -> str:
    return f"{float(str(size_bytes)) / 2**20:.1f} MiB"

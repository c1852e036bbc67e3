"""`idgrpo artifacts export` and `prune`: what leaves the store, for other programs and for good."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from idgrpo.cli import exchange
from idgrpo.cli.options import DryRunOption, ForceOption, JsonOption, StoreOption

if TYPE_CHECKING:
    from idgrpo.store.store import Store

ADAPTER_FORMATS = ("diffusers", "comfyui")
RECORD_FORMATS = ("jsonl", "trl", "videoalign")
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Of a policy: diffusers (default) or comfyui. Of preferences: jsonl (default), trl or videoalign.",
    ),
]


def export(
    ref: Annotated[str, typer.Argument(help="A policy or preferences: a reference of the store, a folder, a file.")],
    target: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="File to write; --out says the same.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write.")] = None,
    form: FormatOption = None,
    dimension: Annotated[str | None, typer.Option(help="Of preferences: only this dimension.")] = None,
    store: StoreOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a policy's adapter for diffusers or ComfyUI, or preferences for other trainers."""
    from idgrpo.errors import UsageError

    file = out or target
    if file is None or (out and target):
        raise UsageError("say once where to write to", fix="--out FILE")
    if form not in (None, *ADAPTER_FORMATS, *RECORD_FORMATS):
        raise UsageError(
            f"there is no format '{form}'",
            fix=f"of a policy: {', '.join(ADAPTER_FORMATS)}; of preferences: {', '.join(RECORD_FORMATS)}",
        )
    if file.is_file() and not force:
        raise UsageError(f"{file} exists", fix="another --out, or --force to replace it")
    shelf = _open(store)
    form = form or ("diffusers" if _is_policy(shelf, ref) else "jsonl")
    if form in RECORD_FORMATS:
        exchange.export(ref, file, form, dimension, store, as_json)  # type: ignore[arg-type]
    else:
        _export_adapter(shelf, ref, form, file, as_json)


def _is_policy(shelf: "Store", ref: str) -> bool:
    """Tell a policy (an artifact, or a folder with an adapter) from preferences."""
    if Path(ref).exists() and not (Path(ref) / "manifest.json").is_file():
        return Path(ref).is_dir()
    return shelf.resolve(ref).kind == "policy"


def _export_adapter(shelf: "Store", ref: str, form: str, file: Path, as_json: bool) -> None:
    from idgrpo.bases.export import export_adapter
    from idgrpo.cli.output import write_json, write_lines
    from idgrpo.cli.sample import find_policy

    policy = find_policy(shelf, ref)
    assert policy is not None, "a reference is given"
    adapter = export_adapter(policy if isinstance(policy, Path) else policy.path, form, file)
    document = {
        "policy": str(getattr(policy, "ref", policy)),
        "format": form,
        "path": str(file.absolute()),
        "num_layers": adapter.num_layers,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "size_bytes": file.stat().st_size,
    }
    if as_json:
        write_json(document)
    else:
        scale = f"rank {adapter.rank}, alpha {adapter.alpha:g}"
        write_lines([f"{file}: {adapter.num_layers} layers of {document['policy']}, {scale}, for {form}"])


def prune(
    kind: Annotated[str | None, typer.Argument(help="Only this kind, such as samples. Default: all.")] = None,
    keep: Annotated[int, typer.Option(min=1, help="Versions of each name that stay, newest first.")] = 1,
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove old versions. What is tagged, in use, or what anything kept was made from, stays."""
    from idgrpo.cli.output import write_json, write_lines
    from idgrpo.store.prune import plan
    from idgrpo.store.prune import prune as remove

    chosen = (plan if dry_run else remove)(_open(store), kind, keep=keep)
    removed = [artifact.ref for artifact in chosen.removed]
    if as_json:
        write_json({"dry_run": dry_run, "removed": removed, "kept": chosen.kept, "size_bytes": chosen.size_bytes})
        return
    verb = "would remove" if dry_run else "removed"
    write_lines(f"{verb} {ref}" for ref in removed)
    write_lines(f"keeps {ref}: {reason}" for ref, reason in chosen.kept.items())
    write_lines([f"{verb} {len(removed)} artifacts, {chosen.size_bytes / 2**20:.1f} MiB"])


def _open(store: str | None) -> "Store":
    from idgrpo.store.store import Store

    return Store(Path(store)) if store else Store.default()

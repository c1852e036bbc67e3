"""`idgrpo artifacts export` (of preferences) and `import-preferences`: preferences to and from the formats of others."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from idgrpo.cli.options import JsonOption, NameOption, QuietOption, StoreOption

if TYPE_CHECKING:
    from idgrpo.records.preference import Preference

FormatOption = Annotated[
    Literal["jsonl", "trl", "videoalign"],
    typer.Option("--format", help="jsonl (ours), trl (prompt, chosen, rejected) or videoalign (CSV)."),
]
DimensionOption = Annotated[
    str | None, typer.Option("--dimension", help="Only this dimension; of a VideoAlign file, its column (VQ, MQ, TA).")
]
SourceOption = Annotated[
    Literal["human", "synthetic", "judge"],
    typer.Option("--source", help="Where the labels of somebody else's file come from."),
]


def export(
    ref: Annotated[str, typer.Argument(help="Preferences: a reference of the store or a prefs.jsonl.")],
    out: Annotated[Path, typer.Argument(help="File to write.")],
    format_: FormatOption = "jsonl",
    dimension: DimensionOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write preferences as JSON Lines, for TRL and Hugging Face datasets, or as VideoAlign's CSV."""
    from idgrpo.cli.output import finish
    from idgrpo.errors import DataError
    from idgrpo.records.exchange import write_trl, write_videoalign
    from idgrpo.records.jsonl import read_records, write_records
    from idgrpo.records.preference import Preference
    from idgrpo.store.store import Store

    shelf = Store(Path(store)) if store else Store.default()
    file = Path(ref) if Path(ref).is_file() else shelf.resolve(ref, kind="preferences").file("prefs.jsonl")
    found = read_records(file, Preference, unique="pair_id")
    chosen: Iterable[Preference] = (item for item in found if dimension in (None, item.dimension))
    if format_ == "trl":
        counts = write_trl(out, chosen)
    elif format_ == "videoalign":
        counts = write_videoalign(out, chosen, _measure)
    else:
        counts = {"written": write_records(out, chosen)}
    if not counts["written"]:
        out.unlink(missing_ok=True)
        raise DataError(f"{ref}: nothing to write as {format_}", fix="see --dimension; trl holds decided pairs only")
    left_out = [f"left out: {num} {label}, which {format_} cannot say" for label, num in counts.items()][1:]
    summary = [f"{counts['written']} preferences -> {out}", *left_out]
    document = {"path": str(out), "format": format_, **counts}
    finish(summary=summary, document=document, artifact=None, quiet=False, as_json=as_json)


def import_preferences(
    file: Annotated[Path, typer.Argument(help="File to read.")],
    format_: FormatOption = "jsonl",
    dimension: DimensionOption = None,
    source: SourceOption = "human",
    store: StoreOption = None,
    name: NameOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read preferences of another format into the store; clips stay where they are."""
    from idgrpo.cli.output import finish
    from idgrpo.errors import DataError
    from idgrpo.records.jsonl import write_records
    from idgrpo.store.store import Store

    shelf = Store(Path(store)) if store else Store.default()
    if not file.is_file():
        raise DataError(f"{file}: there is no such file")
    inputs: dict[str, Any] = {"file": file.resolve()}
    config = {"format": format_, "dimension": dimension, "source": source}
    artifact = shelf.find("preferences", name or "import", inputs=inputs, config=config)
    if artifact is None:
        with shelf.publish("preferences", name or "import", inputs=inputs, config=config) as draft:
            num = write_records(draft.path / "prefs.jsonl", _read(file.resolve(), format_, dimension, source))
            if num == 0:
                raise DataError(f"{file}: holds no preferences")
            draft.metrics["preferences"] = num
        artifact = draft.artifact
    num = artifact.manifest.metrics["preferences"]
    document = {"artifact": artifact.ref, "path": str(artifact.path), "preferences": num}
    summary = [f"{num} preferences", f"artifact: {artifact.ref}"]
    finish(summary=summary, document=document, artifact=artifact, quiet=quiet, as_json=as_json)


def _read(file: Path, format_: str, dimension: str | None, source: Any) -> "Iterator[Preference]":
    from idgrpo.records.exchange import read_trl, read_videoalign
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.preference import Preference

    if format_ == "trl":
        return read_trl(file, source=source, dimension=dimension or "identity")
    if format_ == "videoalign":
        return read_videoalign(file, source=source, dimension=dimension or "identity")
    return (item for item in read_records(file, Preference, unique="pair_id") if dimension in (None, item.dimension))


def _measure(video: str) -> tuple[float, int]:
    from idgrpo.video.probe import probe

    facts = probe(video)
    return facts.fps, facts.frames

"""`idgrpo artifacts describe-people`: a new version of cases, in whose prompts a model describes each person."""

import json
from pathlib import Path
from typing import Annotated

import typer

from idgrpo.cli.options import DryRunOption, ForceOption, JsonOption, NameOption, QuietOption, StoreOption

CLAUSES_FILE = "clauses.json"


def describe_people(
    ref: Annotated[str, typer.Argument(help="Cases: an artifact, or a file (.jsonl, .csv).")] = "cases",
    vlm: Annotated[
        str | None, typer.Option(help="Qwen-VL checkpoint that generates text: directory or hub id.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1. Default: the GPU if there is one.")] = None,
    store: StoreOption = None,
    name: NameOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add one clause per person to every prompt, written by a vision-language model that sees the first photo.

    Precise prompts steady training (the paper's first stabiliser). The result is a cases artifact of the same name, so the
    next stage takes it; the old version stays.
    """
    from idgrpo.annotate.describe import VlmDescriber, make_precise
    from idgrpo.bases.inventory import default_device
    from idgrpo.cli.output import finish
    from idgrpo.errors import UsageError
    from idgrpo.records.jsonl import read_cases, write_records
    from idgrpo.reward.checkpoint import checkpoint_digest, find_vlm
    from idgrpo.run.progress import progress
    from idgrpo.store.store import Store

    if vlm is None:
        raise UsageError(
            "who describes the people?", fix="--vlm DIRECTORY, or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct"
        )
    shelf = Store(Path(store)) if store else Store.default()
    source = Path(ref).resolve() if Path(ref).is_file() else shelf.resolve(ref, kind="cases")
    if not isinstance(source, Path) and CLAUSES_FILE in source.manifest.files:
        raise UsageError(f"{source.ref} describes its people already", fix="give the version it was made from")
    file = source if isinstance(source, Path) else source.file("cases.jsonl")
    cases = list(read_cases(file))
    name = name or (source.stem if isinstance(source, Path) else source.name)
    if dry_run:
        summary = [f"reads   {file} ({len(cases)} cases), {vlm}", f"writes  cases/{name} in {shelf.root}"]
        document = {"would_read": [str(file), vlm], "would_write": f"cases/{name}", "num_cases": len(cases)}
        finish(summary=summary, document=document, artifact=None, quiet=quiet, as_json=as_json)
        return
    folder = find_vlm(vlm)
    inputs, config = {"cases": source}, {"vlm": vlm, "vlm_digest": checkpoint_digest(folder)}
    artifact = None if force else shelf.find("cases", name, inputs=inputs, config=config)
    if artifact is None:
        describe, known = VlmDescriber(folder, device=device or default_device()), dict[str, str]()
        with progress(len(cases), "describing people", "case") as bar:
            precise = []
            for case in cases:
                precise.append(make_precise(case, describe, known))
                bar.advance()
        with shelf.publish("cases", name, inputs=inputs, config=config) as draft:
            write_records(draft.path / "cases.jsonl", precise)
            (draft.path / CLAUSES_FILE).write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
            draft.metrics.update({"num_cases": len(precise), "num_photos": len(known)})
        artifact = draft.artifact
    first = next(read_cases(artifact.file("cases.jsonl")))
    finish(
        summary=[f"{len(cases)} cases with precise prompts, the first: {first.prompt}"],
        document={
            "artifact": artifact.ref,
            "digest": artifact.digest,
            "path": str(artifact.path),
            "first": first.prompt,
        },
        artifact=artifact,
        quiet=quiet,
        as_json=as_json,
    )

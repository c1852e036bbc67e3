"""`idgrpo artifacts` with other programs: export, import-preferences, import-rm and describe-people."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from idgrpo.cli.options import (
    DeviceOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    NameOption,
    NprocOption,
    QuietOption,
    ShareOption,
    StoreOption,
    open_store,
)
from idgrpo.cli.output import carry_out, finish
from idgrpo.errors import UsageError
from idgrpo.stages.describe import describe_people, described
from idgrpo.stages.exchange import export as export_file
from idgrpo.stages.exchange import import_preferences, import_rm, imported_preferences, imported_rm

FormOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Of a policy: diffusers (default) or comfyui. Of preferences: jsonl (default), trl or videoalign. "
        "Of a report: animation (default; .gif or .webp) or csv.",
    ),
]
RecordFormOption = Annotated[
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
    ref: Annotated[
        str, typer.Argument(help="A policy, preferences or a report: a reference of the store, a folder, a file.")
    ],
    target: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="File to write; --out says the same.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write.")] = None,
    form: FormOption = None,
    dimension: Annotated[str | None, typer.Option(help="Of preferences: only this dimension.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of a policy: float32 or bfloat16. Default: as it is.")] = None,
    merged: Annotated[
        str | None, typer.Option("--merged", metavar="BASE", help="Of a policy: whole weights of this base with it.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Of a policy: write a model card beside the file.")] = False,
    store: StoreOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a policy's adapter for diffusers or ComfyUI, preferences for other trainers, or a report's animated picture."""
    file = out or target
    if file is None or (out and target):
        raise UsageError("say once where to write to", fix="--out FILE")
    told = export_file(
        ref,
        file,
        form=form,
        dimension=dimension,
        dtype=dtype,
        merged=merged,
        card=card,
        store=open_store(store),
        force=force,
    )
    finish(summary=told.summary, document=told.document, artifact=None, quiet=False, as_json=as_json)


def import_(
    file: Annotated[Path, typer.Argument(help="File to read.")],
    form: RecordFormOption = "jsonl",
    dimension: DimensionOption = None,
    source: SourceOption = "human",
    store: StoreOption = None,
    name: NameOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read preferences of another format into the store; clips stay where they are."""
    artifact = import_preferences(
        file, form=form, dimension=dimension, source=source, name=name, store=open_store(store)
    )
    told = imported_preferences(artifact)
    finish(summary=told.summary, document=told.document, artifact=artifact, quiet=quiet, as_json=as_json)


def import_reward_model(
    checkpoint: Annotated[Path, typer.Argument(help="Folder with adapter, non-LoRA state and model_config.json.")],
    vlm: Annotated[
        str | None, typer.Option(help="Base it was trained from: directory or hub id. Default: what its settings name.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="Text file with the wording it was trained with; ours shifts its scores.")
    ] = None,
    dimension: Annotated[
        str | None,
        typer.Option(help="VideoAlign's checkpoint: VQ (visual quality), MQ (motion quality) or TA (text alignment)."),
    ] = None,
    store: StoreOption = None,
    name: NameOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read a reward checkpoint as the paper's authors, or VideoAlign's, released it into an artifact of kind rm."""
    work = import_rm(
        checkpoint, dimension=dimension, vlm=vlm, template=template, name=name, store=open_store(store), force=force
    )
    carry_out(work, imported_rm, dry_run=dry_run, quiet=quiet, as_json=as_json)


def describe(
    ref: Annotated[str, typer.Argument(help="Cases: an artifact, or a file (.jsonl, .csv).")] = "cases",
    vlm: Annotated[
        str | None, typer.Option(help="Qwen-VL checkpoint that generates text: directory or hub id.")
    ] = None,
    device: DeviceOption = None,
    nproc: NprocOption = 1,
    share: ShareOption = False,
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
    work = describe_people(ref, vlm=vlm, device=device, name=name, store=open_store(store), force=force, share=share)
    carry_out(work, described, dry_run=dry_run, quiet=quiet, as_json=as_json, nproc=nproc)

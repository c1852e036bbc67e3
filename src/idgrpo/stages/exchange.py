"""What comes into the store from other programs, and what leaves it for them: preferences, adapters, reward models."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from idgrpo.errors import DataError, UsageError
from idgrpo.stages.card import model_card
from idgrpo.stages.source import Source, find
from idgrpo.stages.work import Plan, Run, Work
from idgrpo.store.artifact import Artifact
from idgrpo.store.manifest import content_digest, scan
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.records.models import Preference

RecordFormat = Literal["jsonl", "trl", "videoalign"]
LabelSource = Literal["human", "synthetic", "judge"]
ADAPTER_FORMATS = ("diffusers", "comfyui")
RECORD_FORMATS = ("jsonl", "trl", "videoalign")
REPORT_FORMATS = ("animation", "csv")


def export(
    given: str, out: Path, *, form: str | None = None, dimension: str | None = None, dtype: str | None = None,
    merged: str | None = None, card: bool = False, store: Store | None = None, force: bool = False,
) -> Plan:  # fmt: skip
    """Write a policy's adapter for diffusers or ComfyUI, preferences for other trainers, or a report's picture, to a file.

    Args:
        form: of a policy diffusers (default) or comfyui, of preferences jsonl (default), trl or videoalign, of a report
            animation (default; .gif or .webp) or csv.
        dimension: of preferences, only this dimension.
        dtype: of a policy: float32 or bfloat16; None leaves it.
        merged: of a policy: name or path of the base it was trained on; whole weights are written.
        card: of a policy: write a model card beside the file (inside the folder of merged weights).

    Errors: UsageError for an unknown format, a file that exists (unless `force`), or a target that is no regular file.
    """
    store = store or Store.default()
    if form not in (None, *ADAPTER_FORMATS, *RECORD_FORMATS, *REPORT_FORMATS):
        raise UsageError(
            f"there is no format '{form}'",
            fix=f"of a policy: {', '.join(ADAPTER_FORMATS)}; of preferences: {', '.join(RECORD_FORMATS)}; "
            f"of a report: {', '.join(REPORT_FORMATS)}",
        )
    if out.exists() and not out.is_file() and merged is None:
        raise UsageError(f"{out} is no regular file", fix="name a new file")
    if out.is_file() and not force:
        raise UsageError(f"{out} exists", fix="another --out, or --force to replace it")
    form = form or {"policy": "diffusers", "report": "animation"}.get(_kind_of(store, given), "jsonl")
    if card and form not in ADAPTER_FORMATS:
        raise UsageError("a model card is written for a policy", fix="leave out --card")
    if form in REPORT_FORMATS:
        return _export_report(find(store, "report", given), out, form)
    if form in RECORD_FORMATS:
        return _export_preferences(find(store, "preferences", given), out, form, dimension)
    policy = find(store, "policy", given)
    told = _export_adapter(policy, out, form, dtype, merged)
    if not card:
        return told
    file = out / "README.md" if out.is_dir() else out.with_suffix(".md")
    file.write_text(model_card(store, policy, weights=out.name), encoding="utf-8")
    return Plan([*told.summary, f"model card: {file}"], {**told.document, "card": str(file.absolute())})


def _kind_of(store: Store, given: str) -> str:
    """Say what is given: an artifact's kind; a folder that is none holds an adapter, a file records."""
    path = Path(given)
    if path.exists() and not (path / "manifest.json").is_file():
        return "policy" if path.is_dir() else "preferences"
    return store.resolve(given).kind


def _export_report(report: Source, out: Path, form: str) -> Plan:
    from idgrpo.evaluate.animate import write_animation
    from idgrpo.evaluate.document import read_report
    from idgrpo.evaluate.tables import samples_csv

    found = read_report(report.path)
    if form == "csv":
        out.write_text(samples_csv(found), encoding="utf-8")
        count, what = len(found.samples), "videos"
    else:
        count, what = write_animation(found, out), "frames"
    document = {
        "report": report.ref,
        "format": form,
        "path": str(out.absolute()),
        "count": count,
        "size_bytes": out.stat().st_size,
    }
    return Plan([f"{out}: {count} {what} of {report.ref}"], document)


def _export_adapter(policy: Source, out: Path, form: str, dtype: str | None, merged: str | None) -> Plan:
    from idgrpo.bases.export import export_adapter

    adapter = export_adapter(policy.path, form, out, dtype=dtype, merged_into=merged)
    document = {
        "policy": policy.ref,
        "format": form,
        "path": str(out.absolute()),
        "num_layers": adapter.num_layers,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "size_bytes": sum(p.stat().st_size for p in ([out] if out.is_file() else out.rglob("*.safetensors"))),
    }
    scale = f"rank {adapter.rank}, alpha {adapter.alpha:g}"
    return Plan([f"{out}: {adapter.num_layers} layers of {policy.ref}, {scale}, for {form}"], document)


def _export_preferences(source: Source, out: Path, form: str, dimension: str | None) -> Plan:
    from idgrpo.records.exchange import write_trl, write_videoalign
    from idgrpo.records.jsonl import read_records, write_records
    from idgrpo.records.models import Preference

    found = read_records(source.records, Preference, unique="pair_id")
    chosen: Iterable[Preference] = (item for item in found if dimension in (None, item.dimension))
    if form == "trl":
        counts = write_trl(out, chosen)
    elif form == "videoalign":
        counts = write_videoalign(out, chosen, _rate_and_length)
    else:
        counts = {"written": write_records(out, chosen)}
    if not counts["written"]:
        out.unlink(missing_ok=True)
        raise DataError(
            f"{source.ref}: nothing to write as {form}", fix="see --dimension; trl holds decided pairs only"
        )
    left_out = [f"left out: {num} {label}, which {form} cannot say" for label, num in counts.items()][1:]
    summary = [f"{counts['written']} preferences -> {out}", *left_out]
    return Plan(summary, {"path": str(out), "format": form, **counts})


def _rate_and_length(video: str) -> tuple[float, int]:
    from idgrpo.video.probe import probe

    facts = probe(video)
    return facts.fps, facts.frames


def import_preferences(
    file: Path,
    *,
    form: RecordFormat = "jsonl",
    dimension: str | None = None,
    source: LabelSource = "human",
    name: str | None = None,
    store: Store | None = None,
) -> Artifact:
    """Read preferences of another format into the store; clips stay where they are."""
    store, name = store or Store.default(), name or "import"
    if not file.is_file():
        raise DataError(f"{file}: there is no such file")
    file = file.resolve()

    def make(run: Run) -> None:
        from idgrpo.records.jsonl import write_records

        num = write_records(run.out.path / "prefs.jsonl", _read(file, form, dimension, source))
        if num == 0:
            raise DataError(f"{file}: holds no preferences")
        run.out.metrics["preferences"] = num

    config = {"format": form, "dimension": dimension, "source": source}
    inputs = {"file": find(store, "preferences", file)}
    return Work(store, "import", "preferences", name, inputs, config, make, lambda: Plan([], {})).run()


def _read(file: Path, form: str, dimension: str | None, source: Any) -> "Iterator[Preference]":
    from idgrpo.records.exchange import read_trl, read_videoalign
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.models import Preference

    if form == "trl":
        return read_trl(file, source=source, dimension=dimension or "identity")
    if form == "videoalign":
        return read_videoalign(file, source=source, dimension=dimension or "identity")
    return (item for item in read_records(file, Preference, unique="pair_id") if dimension in (None, item.dimension))


def import_rm(
    checkpoint: Path, *, dimension: str | None = None, vlm: str | None = None, template: Path | None = None,
    name: str | None = None, store: Store | None = None, force: bool = False,
) -> Work:  # fmt: skip
    """Read a reward checkpoint as Identity-GRPO's or VideoAlign's authors released it into an artifact of kind rm; `run` the work given.

    Args:
        checkpoint: folder with adapter, non-LoRA state and model_config.json.
        dimension: of VideoAlign's three scores: VQ (visual quality), MQ (motion quality) or TA (text alignment).
        vlm: base it was trained from; None means what its settings name.
        template: text file with the wording it was trained with; ours shifts its scores.
    """
    from idgrpo.reward.checkpoint import checkpoint_digest, find_vlm
    from idgrpo.reward.importer import check_dimension, import_checkpoint, read_settings, wording_of

    store = store or Store.default()
    settings = read_settings(checkpoint)
    check_dimension(settings, dimension)
    name = name or ("authors" if dimension is None else f"videoalign-{dimension}")
    of_dimension = {} if dimension is None else {"dimension": dimension}
    base = vlm or settings["model_config"]["model_name_or_path"]
    folder = find_vlm(base)
    wording = {}
    if template is not None:
        if not template.is_file():
            raise UsageError(f"there is no template {template}")
        wording = wording_of(settings, template.stem, template.read_text(encoding="utf-8"))

    def make(run: Run) -> None:
        run.out.metrics.update(import_checkpoint(checkpoint, folder, run.out.path, **of_dimension, **wording))

    def plan() -> Plan:
        import json

        document = {"would_read": [str(checkpoint), base], "would_write": f"rm/{name}", "settings": settings}
        lines = [f"reads   {checkpoint}, {base}", f"writes  rm/{name} in {store.root}", json.dumps(settings)]
        return Plan(lines, document)

    inputs = {"checkpoint": Source("rm", str(checkpoint), checkpoint, content_digest(scan(checkpoint)))}
    config = {"vlm": base, "vlm_digest": checkpoint_digest(folder), **of_dimension, **wording}
    return Work(store, "import-rm", "rm", name, inputs, config, make, plan, force=force)


def imported_rm(artifact: Artifact) -> Plan:
    """Tell what was read of a reward checkpoint."""
    read, base = artifact.manifest.metrics, artifact.manifest.config["vlm"]
    summary = [
        f"reward model {artifact.ref}: {read['adapters']} adapters and {read['weights']} weights on {base}",
        "no key was missing, none was left over",
    ]
    return Plan(summary, {"artifact": artifact.ref, "digest": artifact.digest, "path": str(artifact.path), **read})


def imported_preferences(artifact: Artifact) -> Plan:
    """Tell how many preferences were read."""
    num = artifact.manifest.metrics["preferences"]
    document = {"artifact": artifact.ref, "path": str(artifact.path), "preferences": num}
    return Plan([f"{num} preferences", f"artifact: {artifact.ref}"], document)

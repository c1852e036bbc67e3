"""Cases with precise prompts: a vision-language model describes each person in a clause of the prompt."""

import json
from pathlib import Path

from idgrpo.errors import UsageError
from idgrpo.stages.cases import read_cases
from idgrpo.stages.source import Given, find
from idgrpo.stages.work import Plan, Run, Work
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store

CLAUSES_FILE = "clauses.json"


def describe_people(
    cases: Given = None,
    *,
    vlm: str | None = None,
    device: str | None = None,
    name: str | None = None,
    store: Store | None = None,
    force: bool = False,
    share: bool = False,
) -> Work:
    """Add one clause per person to every prompt, written by a model that sees the first photo; `run` the work given.

    Precise prompts steady training (the paper's first stabiliser). The result is a cases artifact of the same name, so the
    next stage takes it; the old version stays.
    """
    if vlm is None:
        raise UsageError(
            "who describes the people?", fix="--vlm DIRECTORY, or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct"
        )
    store = store or Store.default()
    source = find(store, "cases", cases)
    if source.artifact is not None and CLAUSES_FILE in source.artifact.manifest.files:
        raise UsageError(f"{source.ref} describes its people already", fix="give the version it was made from")
    found = read_cases(source)
    name = name or source.name

    def make(run: Run) -> None:
        from idgrpo.annotate.describe import VlmDescriber, clause, describe_photos, make_precise
        from idgrpo.records.jsonl import write_records
        from idgrpo.reward.checkpoint import find_vlm

        photos = list(dict.fromkeys(reference.images[0] for case in found for reference in case.references))
        describe = VlmDescriber(find_vlm(vlm), device=run.device(device))
        said = describe_photos(photos, describe, run.path / "said", run.dealing)
        if not run.publishes:
            return
        precise, known = [make_precise(case, said) for case in found], {photo: clause(said[photo]) for photo in photos}
        write_records(run.out.path / "cases.jsonl", precise)
        (run.out.path / CLAUSES_FILE).write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
        run.out.metrics.update({"num_cases": len(precise), "num_photos": len(known)})

    def pins() -> dict[str, str]:
        from idgrpo.reward.checkpoint import checkpoint_digest, find_vlm

        return {"vlm_digest": checkpoint_digest(find_vlm(vlm))}

    def plan() -> Plan:
        summary = [f"reads   {source.records} ({len(found)} cases), {vlm}", f"writes  cases/{name} in {store.root}"]
        would_read = [str(source.records), vlm]
        return Plan(summary, {"would_read": would_read, "would_write": f"cases/{name}", "num_cases": len(found)})

    return Work(
        store, "describe", "cases", name, {"cases": source}, {"vlm": vlm}, make, plan, pins=pins, force=force,
        ranks="deal", share=share,
    )  # fmt: skip


def described(artifact: Artifact) -> Plan:
    """Tell how many cases there are, and show the first prompt."""
    from idgrpo.records.cases import read_cases as read

    found = list(read(Path(artifact.file("cases.jsonl"))))
    first = found[0].prompt
    document = {"artifact": artifact.ref, "digest": artifact.digest, "path": str(artifact.path), "first": first}
    return Plan([f"{len(found)} cases with precise prompts, the first: {first}"], document)

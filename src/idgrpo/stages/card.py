"""A policy's model card: base, data, method, measures with intervals, use, licence. Every figure is read from the store."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idgrpo.errors import ArtifactError, DataError, UsageError
from idgrpo.stages.source import Source
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.evaluate.document import Report

LICENCE = """The weights derive from the base model, and the reward they were trained with derives from others: a vision-language model, and
where real faces were measured, a face recognition network. Their licences and terms of use apply beside any of your own. This card
states none: set `license` above after you have read them. Do not publish photos or clips of people without their consent."""


def model_card(store: Store, policy: Source, *, weights: str) -> str:
    """Write the card in Markdown with the metadata that hubs read; weights: name of the file it stands beside."""
    trained = _training(policy)
    base = Path(str(trained.get("base") or "unknown base")).name  # a checkpoint's path says nothing elsewhere
    report = find_report(store, policy)
    parts = [
        _front(base),
        f"# {policy.artifact.name if policy.artifact else policy.path.name}: {base}, tuned for several people in one video\n",
        f"A LoRA adapter (or whole weights) for `{base}`, trained with [GRPO](https://arxiv.org/abs/2510.14256) on a reward learned from "
        "preferences about identity.\n" if trained.get("config", {}).get("method", "grpo") == "grpo" else f"Weights for `{base}`, fine-tuned on chosen clips.\n",
        _use(base, trained, weights, report),
        _measures(report, _trained_on(store, policy)),
        _data(store, policy),
        _settings(trained),
        f"## Licence\n\n{LICENCE}\n",
    ]  # fmt: skip
    return "\n".join(parts)


def find_report(store: Store, policy: Source) -> "Report | None":
    """Give the newest report of the store that compares this policy with its base, if there is one."""
    from idgrpo.evaluate.document import read_report

    wanted = policy.artifact.ref if policy.artifact else None
    for artifact in store.list("report") if wanted else ():
        try:
            found = read_report(artifact.path)
        except (ArtifactError, DataError):
            continue
        if any(variant.policy == wanted for variant in found.variants):
            return found
    return None


def _training(policy: Source) -> dict[str, Any]:
    file = policy.path / "policy.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _front(base: str) -> str:
    lines = ["---", "library_name: diffusers", "license: other", "pipeline_tag: text-to-video"]
    lines += [f"base_model: {hub}"] if (hub := hub_name(base)) else []
    return "\n".join([*lines, "tags:", "- lora", "- video-generation", "- identity-preservation", "- grpo", "---", ""])


def hub_name(base: str) -> str | None:
    """Give the hub repository of a known base's weights, owner/name; None where there is none."""
    from idgrpo.bases.entries import ENTRIES

    source = ENTRIES[base].source if base in ENTRIES else ""
    kind, _, place = str(source).partition(":")
    return "/".join(place.split("/")[:2]) if kind == "hub" else None


def _use(base: str, trained: dict[str, Any], weights: str, report: "Report | None") -> str:
    size, schedule = trained.get("size") or {}, trained.get("schedule") or {}
    lines = ["## Use", ""]
    if weights.endswith(".safetensors"):
        lines += ["```python", f'pipe.load_lora_weights("{weights}")  # a diffusers pipeline of {base}', "```", ""]
    if size:
        lines.append(f"- Trained at {size.get('width')}x{size.get('height')}, {size.get('frames')} frames.")
    if schedule:
        lines.append(
            f"- {len(schedule.get('sigmas', [0])) - 1} steps, shift {schedule.get('shift')}, guidance {_guidance(schedule)}."
        )
    order = "reversed" if trained.get("reversed_references") else "the order in which the prompt names them"
    lines.append(f"- References in {order}.")
    if report is not None and report.samples:
        lines.append(f"- A prompt of the kind it was measured on: *{report.samples[0].prompt}*")
    return "\n".join([*lines, ""])


def _guidance(schedule: dict[str, Any]) -> str:
    found = schedule.get("guidance") or {}
    return (
        "none"
        if found.get("mode", "none") == "none"
        else f"{found['mode']}, scale {found.get('scale') or 'of the base'}"
    )


def _trained_on(store: Store, policy: Source) -> set[str] | None:
    """Give the ids of the cases that a policy was trained on; None where the store does not know them."""
    from idgrpo.stages.cases import read_cases
    from idgrpo.stages.source import find

    entry = policy.artifact.manifest.inputs.get("cases") if policy.artifact else None
    try:
        return {case.id for case in read_cases(find(store, "cases", entry.ref))} if entry is not None else None
    except (ArtifactError, DataError, UsageError):  # removed since, or a file that is no longer there
        return None


def _measures(report: "Report | None", trained_on: set[str] | None) -> str:
    from idgrpo.evaluate.tables import markdown

    if report is None:
        return "## Measured\n\nNo report of the store measures this policy. `idgrpo eval` makes one.\n"
    checks = [f"- {v.variant}: {v.name}: {v.text}" for v in report.diagnostics if v.level == "watch"]
    measured = {sample.case_id for sample in report.samples}
    if trained_on is None or not measured:
        cases = f"{report.num_cases} cases"
    elif seen := len(measured & trained_on):
        cases = f"{report.num_cases} cases, **{seen} of them trained on**"
    else:
        cases = f"{report.num_cases} held-out cases"
    return "\n".join(
        [
            "## Measured", "", f"{cases}, finder `{report.finder}`; differences with 95 % intervals, base and policy "
            "paired on the same cases and seeds.", "", markdown(report), *(["What to watch:", "", *checks, ""] if checks else []), report.power_note, "",
        ]
    )  # fmt: skip


def _data(store: Store, policy: Source) -> str:
    lines = ["## Data", ""]
    found = list(_made_from(store, policy.artifact)) if policy.artifact else []
    for kind, words in (("cases", "num_cases"), ("preferences", "pairs"), ("rm", None), ("samples", None)):
        for artifact in (one for one in found if one.kind == kind):
            metrics = artifact.manifest.metrics
            more = f", {metrics[words]} {words.removeprefix('num_')}" if words and words in metrics else ""
            votes = (
                f", {metrics['votes']} votes of {metrics['annotators']} annotators" if "annotators" in metrics else ""
            )
            lines.append(f"- `{artifact.ref}`{more}{votes} ({artifact.digest[:19]})")
    return (
        "\n".join([*lines, ""])
        if len(lines) > 2
        else "## Data\n\nThe policy is no artifact of a store: its lineage is not known.\n"
    )


def _made_from(store: Store, artifact: Artifact) -> Iterator[Artifact]:
    seen: set[str] = set()
    for step in store.lineage(artifact):
        if step.artifact is not None and step.ref not in seen:
            seen.add(step.ref)
            yield step.artifact


def _settings(trained: dict[str, Any]) -> str:
    config = trained.get("config") or {}
    if not config:
        return ""
    shown = {key: config.get(key) for key in ("method", "num_updates", "train", "seed")}
    shown |= {"updates done": trained.get("updates"), "weights": trained.get("weights")}
    lines = [f"| {key} | {value} |" for key, value in shown.items() if value is not None]
    text = json.dumps(config, indent=1, sort_keys=True)
    return "\n".join(["## Training", "", "| setting | value |", "| --- | --- |", *lines, "", "<details><summary>All settings</summary>", "",
                      "```json", text, "```", "</details>", ""])  # fmt: skip

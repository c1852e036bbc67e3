"""Sample what an evaluation still lacks, through the same stage as `idgrpo sample`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idgrpo.records.sample import Sample
    from idgrpo.store.artifact import Artifact
    from idgrpo.store.store import Store


@dataclass(frozen=True)
class SamplingRequest:
    """Say what to sample: the base alone, and the base with each policy; `sets` are settings of `idgrpo sample`."""

    cases: str | None
    base: str | None
    policies: tuple[str, ...]
    num_per_case: int | None
    seed: int | None
    device: str | None
    sets: tuple[str, ...]
    dry_run: bool


def sample_variant(
    shelf: "Store", request: SamplingRequest, policy: str | None
) -> "tuple[Artifact | None, list[Sample]]":
    """Give the samples artifact of a base with or without a policy, made now if the store has none.

    A dry run makes nothing: it gives no artifact and no samples where they would have to be made.
    """
    from idgrpo.bases.config import SampleConfig
    from idgrpo.bases.inventory import weights_of_entry
    from idgrpo.bases.load import resolve_entry
    from idgrpo.cli import sample as stage
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.sample import Sample
    from idgrpo.run.config import load_config

    given = {"base": request.base, "num_per_case": request.num_per_case, "seed": request.seed, "device": request.device}
    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    settings = load_config(SampleConfig, None, [*request.sets, *options])
    adapter = stage.find_policy(shelf, policy)
    entry = resolve_entry(settings.named_base)
    named = request.cases or "cases"
    cases = Path(named).resolve() if Path(named).is_file() else shelf.resolve(named, kind="cases")
    inputs: dict[str, Artifact | Path] = {"cases": cases} | ({"policy": adapter} if adapter is not None else {})
    resolved = settings.resolved(entry) | weights_of_entry(entry)
    name = settings.base_name if adapter is None else f"{settings.base_name}-tuned"
    artifact = shelf.find("samples", name, inputs=inputs, config=resolved)
    if artifact is None and request.dry_run:
        return None, []
    if artifact is None:
        artifact = stage.make_samples(shelf, name, inputs, resolved, settings)
    return artifact, list(read_records(artifact.file("samples.jsonl"), Sample))

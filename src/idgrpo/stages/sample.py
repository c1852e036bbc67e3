"""The `sample` stage: cases and a base, with or without a tuned policy -> videos."""

import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idgrpo.errors import ArtifactError, DataError, UsageError
from idgrpo.stages.cases import of_world, read_cases
from idgrpo.stages.settings import Settings, settle
from idgrpo.stages.source import Given, Source, find
from idgrpo.stages.work import Plan, Run, Stage, Work, num_ranks, tell
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from idgrpo.bases.config import SampleConfig
    from idgrpo.bases.contract import Base, BaseEntry
    from idgrpo.bases.policy_card import PolicyCard
    from idgrpo.records.models import Case

TRUE_BASE = "tinyworld"
"""The "base" that draws the true clip of each case of the embedded world."""


@Stage
def sample(
    cases: Given = None,
    *,
    base: str | None = None,
    policy: Given = None,
    settings: Settings = None,
    as_trained: bool = False,
    name: str | None = None,
    store: Store | None = None,
    force: bool = False,
    resume: bool = False,
    share: bool = False,
    together: int = 1,
    plan_only: bool = False,
) -> Work:
    """Make videos of cases; a run that was stopped goes on, finished videos are kept.

    Args:
        cases: None means the newest of the store; a tiny base in an empty store draws a few of the embedded world.
        base: name or path; None takes that of `settings`, else the base that the policy was trained on. `tinyworld`
            draws the true clips of embedded-world cases.
        policy: adapter to put on the base: artifact, reference or folder.
        settings: a SampleConfig, or dotted keys such as {"num_per_case": 4, "sampler.num_steps": 8}.
        as_trained: take size, steps, shift and guidance that the policy was trained with.
        share: make the clips together with other processes that make the same call on this store.
        together: so many ranks, which must be those of the job, compute each clip together (context parallelism) instead of
            dealing clips out.

    Ranks of a job (torchrun, SLURM) deal the clips out by themselves; the result is that of one process.
    """
    from idgrpo.bases.config import SampleConfig
    from idgrpo.bases.inventory import weights_of_entry
    from idgrpo.bases.load import resolve_entry
    from idgrpo.bases.numerics import check_attention

    store = store or Store.default()
    settled = settle(SampleConfig, settings)
    adapter = find(store, "policy", policy) if policy is not None else None
    settled = _with_base(settled, base, adapter)
    if settled.base == TRUE_BASE:
        return _true_clips(store, find(store, "cases", cases), name, force=force)
    entry = resolve_entry(settled.named_base)
    check_attention(settled.attention)
    is_together = together > 1
    if is_together and (share or entry.loader):
        what = "--share deals whole clips out" if share else f"{entry.name} is a base of another package"
        raise UsageError(f"{what}: no clip is made by several ranks together", fix="leave --context-parallel out")
    if is_together and num_ranks() not in (1, together):
        raise UsageError(
            f"the job has {num_ranks()} processes, {together} are to make each clip together",
            fix=f"--context-parallel {num_ranks()}, or a job of {together} processes",
        )
    settled = _beside_training(settled, entry, adapter, as_trained=as_trained)
    if cases is None and entry.architecture == "tiny" and not plan_only and not any(store.list("cases")):
        cases = of_world(store, settled.seed or 0)
    source = find(store, "cases", cases)
    if is_together:
        _check_together(settled, entry, read_cases(source), together)
    inputs = {"cases": source} | ({"policy": adapter} if adapter is not None else {})
    name = name or (settled.base_name if adapter is None else f"{settled.base_name}-tuned")

    def make(run: Run) -> None:
        _make(run, settled, read_cases(source), adapter, store.root / "cache" / "conditions", together=is_together)

    # The digest of the weights says also that they are missing, before anything is done; a plan needs none.
    return Work(
        store, "sample", "samples", name, inputs, settled.resolved(entry), make,
        lambda: _plan(store, settled, entry, source, name), pins=lambda: weights_of_entry(entry), force=force, resume=resume,
        ranks="together" if is_together else "deal", share=share, device=settled.device if is_together else None,
    )  # fmt: skip


def _check_together(settings: "SampleConfig", entry: "BaseEntry", cases: "list[Case]", num_ranks: int) -> None:
    """Refuse clips that do not divide over the ranks, before anything is read. Raises UsageError."""
    from idgrpo.bases.geometry import Geometry
    from idgrpo.bases.inventory import configs_of_entry
    from idgrpo.bases.together import refuse_uneven

    transformer, vae = configs_of_entry(entry)
    numbers = (len(case.references) for case in cases)
    size = settings.sampler.size(entry)
    refuse_uneven(transformer["num_attention_heads"], Geometry.of(vae, transformer), size, numbers, num_ranks)


def load_tuned_base(
    policy: Given, *, base: str | None = None, device: str | None = None, store: Store | None = None
) -> "Base":
    """Load a base with a tuned policy on it, ready for `generate`: the newest policy, or the one that is given."""
    from idgrpo.bases.config import SampleConfig
    from idgrpo.bases.inventory import default_device
    from idgrpo.bases.load import load_base
    from idgrpo.bases.policy_card import read_policy_card
    from idgrpo.bases.tuned import load_tuned

    source = find(store or Store.default(), "policy", policy)
    named = _with_base(SampleConfig(), base, source).named_base
    card = read_policy_card(source.path)
    kind = None if card is None else card.quantised
    loaded = load_base(named, device=device or default_device(), base_weights=kind)
    load_tuned(loaded, source.path)
    return loaded


def _with_base(settings: "SampleConfig", base: str | None, adapter: Source | None) -> "SampleConfig":
    """Name the base: as given, as set, or the one that the policy was trained on."""
    named = base or settings.base
    if named is None and adapter is not None:
        from idgrpo.bases.policy_card import read_policy_card

        card = read_policy_card(adapter.path)
        named = card.base if card is not None else None
    if named is None:
        from idgrpo.bases.entries import ENTRIES

        raise UsageError("no base given", fix=f"say --base, one of {', '.join(ENTRIES)}, or a path")
    return settings.model_copy(update={"base": named})


def _beside_training(
    settings: "SampleConfig", entry: "BaseEntry", adapter: Source | None, *, as_trained: bool
) -> "SampleConfig":
    """Take the settings that a policy was trained with, or say in one line how these differ from them."""
    from idgrpo.bases.config import SamplerConfig
    from idgrpo.bases.policy_card import as_trained as settings_of_training
    from idgrpo.bases.policy_card import read_policy_card, trained_otherwise

    card = read_policy_card(adapter.path) if adapter is not None else None
    if card is None:
        if as_trained:
            raise UsageError(
                "nothing says how it was trained: --as-trained needs a policy with policy.json", fix="--policy REF"
            )
        return settings
    settings = _on_trained_weights(settings, card)
    if as_trained:
        sampler = SamplerConfig.model_validate(settings.sampler.model_dump() | settings_of_training(card))
        return settings.model_copy(update={"sampler": sampler})
    if difference := trained_otherwise(card, settings.sampler, entry):
        tell(f"note: {difference}")
    return settings


def _on_trained_weights(settings: "SampleConfig", card: "PolicyCard") -> "SampleConfig":
    """Quantise the base as it was quantised in training unless the settings name its weights; say which they are."""
    from idgrpo.bases.contract import QUANTISED

    trained = card.quantised
    if settings.base_weights is None and trained is not None:
        tell(f"note: the policy was trained on {trained} weights of the base; these clips are made with them too")
        return settings.model_copy(update={"base_weights": trained})
    named = settings.base_weights
    if (named if named in QUANTISED else None) != trained:
        tell(
            f"note: the policy was trained on {trained or 'unquantised'} weights of the base; these clips have {named}"
        )
    return settings


def _make(
    run: Run,
    settings: "SampleConfig",
    cases: "list[Case]",
    adapter: Source | None,
    conditions: Path,
    *,
    together: bool,
) -> None:
    """Make the videos in the run's folder, which survives a kill, then copy them; encodings are shared over runs."""
    from idgrpo.bases.conditions import ConditionsCache
    from idgrpo.bases.generate import jobs_of
    from idgrpo.bases.sampling import copy_samples, load_for_sampling, sample_to_folder
    from idgrpo.bases.together import following, leading
    from idgrpo.run.signals import StopSignal

    settings = on_rank(settings, run)
    base = load_for_sampling(settings, adapter.path if adapter is not None else None)
    shared = None if base.entry.architecture == "tiny" else ConditionsCache(conditions)
    jobs = jobs_of(cases, seed=settings.seed, num_per_case=settings.num_per_case)
    together = together and run.world.size > 1
    if together and not run.publishes:
        with StopSignal():  # the main rank stops between two steps, and says so
            return following(base, run.world)
    started, num_kept = time.monotonic(), len([*(run.path / "samples" / "videos").glob("[!.]*")])
    with StopSignal() as stop, leading(base, run.world) if together else nullcontext():
        samples = sample_to_folder(
            base,
            jobs,
            run.path / "samples",
            sampler=settings.sampler,
            lossless=settings.lossless,
            policy=None if adapter is None else adapter.ref,
            cache=shared,
            check=stop.check,
            dealing=run.dealing,
        )
    if not run.publishes:
        return
    speed = _speed(settings, base.entry, cases, len(samples) - num_kept, time.monotonic() - started)
    copy_samples(samples, run.path / "samples", run.out.path)
    run.out.metrics.update({"num_samples": len(samples), "num_cases": len(cases), **speed})


def on_rank(settings: "SampleConfig", run: Run) -> "SampleConfig":
    """Give the settings with the devices of this rank."""
    encoder = settings.encoder_device and run.device(settings.encoder_device)
    return settings.model_copy(update={"device": run.device(settings.device), "encoder_device": encoder})


def _speed(
    settings: "SampleConfig", entry: "BaseEntry", cases: "list[Case]", num_made: int, seconds: float
) -> dict[str, Any]:
    """Give the speed that was reached and by what, for the plans of later calls; nothing where no clip was made."""
    from idgrpo.bases.inventory import cost_of_entry, default_device
    from idgrpo.run.machine import device_name

    if num_made < 1 or entry.loader:  # what a clip of another package's base costs is not known
        return {}
    cost = cost_of_entry(entry, settings.sampler, num_references=max(len(case.references) for case in cases))
    reached = num_made * cost.sample_tflop / seconds
    return {"tflop_per_second": reached, "device": device_name(settings.device or default_device())}


def _hours(store: Store, settings: "SampleConfig", tflop: float) -> tuple[float | None, str]:
    """Give the hours that so much work takes at the speed of the newest samples by this base on this device, and say so."""
    from idgrpo.bases.inventory import default_device
    from idgrpo.run.machine import device_name

    device = device_name(settings.device or default_device())
    for artifact in store.list("samples"):
        with suppress(ArtifactError):  # a damaged one says nothing
            config, seen = artifact.manifest.config, artifact.manifest.metrics
            if config.get("base") == settings.base and seen.get("device") == device:
                hours = tflop / float(seen["tflop_per_second"]) / 3600
                speed = f"{float(seen['tflop_per_second']):.3g} TFLOP/s, {device}"
                return hours, f"time: about {hours:,.3g} hours at the speed of {artifact.ref} ({speed})"
    return None, f"time: not known, {settings.base_name} has made no samples in this store on this device ({device})"


def _true_clips(store: Store, source: Source, name: str | None, *, force: bool) -> Work:
    """Draw with the renderer of the embedded world instead of a base."""
    cases = read_cases(source)
    strange = [case.id for case in cases if case.seed is None or not all(_is_drawn(r.person) for r in case.references)]
    if strange:
        raise DataError(
            f"case '{strange[0]}' is not of the embedded world: only its own can be drawn truly", fix="idgrpo cases"
        )

    def make(run: Run) -> None:
        from idgrpo.tinyworld.cases import write_true_samples

        run.out.metrics["num_samples"] = len(write_true_samples(run.out.path, cases))

    def plan() -> Plan:
        lines = [f"would draw the {len(cases)} true clips of {source.ref} -> samples/{name or 'true'} in {store.root}"]
        return Plan(lines, {"dry_run": True, "num_clips": len(cases), "cases": source.ref, "name": name or "true"})

    return Work(store, "sample", "samples", name or "true", {"cases": source}, {}, make, plan, force=force)


def _is_drawn(person: str) -> bool:
    return person.startswith("tiny-")


def _plan(store: Store, settings: "SampleConfig", entry: "BaseEntry", source: Source, name: str) -> Plan:
    """Say what would be done and what it would cost, as far as that is known."""
    from idgrpo.bases.cost import clip_size_bytes
    from idgrpo.bases.sampling import COPIES
    from idgrpo.run.machine import free_disk_bytes

    cases = read_cases(source)
    num = len(cases) * settings.num_per_case
    lines, costs = _costs(store, settings, entry, cases)
    lossless = entry.lossless if settings.lossless is None else settings.lossless
    disk = COPIES * num * clip_size_bytes(settings.sampler.size(entry), lossless=lossless)
    free = free_disk_bytes(store.root)
    summary = [
        f"would make {num} clips of {len(cases)} cases ({source.ref}) -> samples/{name} in {store.root}",
        *lines,
        f"disk, estimated: {disk / 2**20:,.1f} MiB of {free / 2**20:,.0f} MiB free",
    ]
    document: dict[str, Any] = {
        "dry_run": True,
        "num_clips": num,
        "cases": source.ref,
        "name": name,
        "config": settings.resolved(entry),
        "disk_bytes": disk,
        **costs,
    }
    return Plan(summary, document)


def _costs(
    store: Store, settings: "SampleConfig", entry: "BaseEntry", cases: "list[Case]"
) -> tuple[list[str], dict[str, Any]]:
    """Give what the clips cost in memory and time, as lines and as a document."""
    from idgrpo.bases.inventory import cost_lines, cost_of_entry, gpu_memory_gib

    if entry.loader:
        return [f"memory and time are not known: {entry.name} is a base of another package"], {}
    most = max(len(case.references) for case in cases)
    weights, memory_gib = settings.base_weights, gpu_memory_gib(settings.device)
    cost = cost_of_entry(entry, settings.sampler, num_references=most, base_weights=weights)
    estimate = cost_lines(entry, settings.sampler, cost, most, memory_gib, weights)
    tflop = len(cases) * settings.num_per_case * cost.sample_tflop
    hours, time_line = _hours(store, settings, tflop)
    document = {"cost": cost.__dict__, "estimate": estimate, "total_tflop": tflop, "hours": hours}
    return [*estimate, f"all clips: {tflop:,.4g} TFLOP", time_line], document


def result(artifact: Artifact) -> Plan:
    """Tell how many clips there are, and where videos and contact sheets lie."""
    from idgrpo.records.jsonl import read_records
    from idgrpo.records.models import Sample

    samples = list(read_records(artifact.file("samples.jsonl"), Sample))
    base = artifact.manifest.config.get("base", samples[0].base)
    sheets = artifact.path / "contact_sheets"
    summary = [
        f"{len(samples)} clips by {base}: {artifact.ref}",
        f"videos: {artifact.path / 'videos'}",
        *([f"contact sheets: {sheets}"] if sheets.is_dir() else []),
    ]
    document = {
        "artifact": artifact.ref,
        "digest": artifact.digest,
        "path": str(artifact.path),
        "base": base,
        "num_samples": len(samples),
        "contact_sheets": str(sheets),
    }
    return Plan(summary, document)

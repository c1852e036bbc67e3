"""The `distort` stage: clean clips -> worse clips with a known order -> preferences."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idgrpo.errors import DataError, UsageError
from idgrpo.stages.joining import join_samples
from idgrpo.stages.sample import on_rank
from idgrpo.stages.settings import Settings, settle
from idgrpo.stages.source import Given, Source, find, listed
from idgrpo.stages.work import Plan, Run, Stage, Work, num_ranks
from idgrpo.store.artifact import Artifact
from idgrpo.store.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from idgrpo.bases.config import SampleConfig
    from idgrpo.distort.config import DistortConfig
    from idgrpo.records.models import Sample


@Stage
def distort(
    samples: Given | Sequence[Given] = None,
    *,
    settings: Settings = None,
    base: str | None = None,
    sampling: Settings = None,
    finder_weights: Path | None = None,
    workers: int = 1,
    sheets: bool = True,
    name: str | None = None,
    store: Store | None = None,
    force: bool = False,
    resume: bool = False,
    share: bool = False,
) -> Work:
    """Damage who is who in clean clips, in known amounts, and publish the preferences.

    Args:
        samples: samples, `samples.jsonl`, or a folder of videos with their references; several are joined. None means
            the newest samples that were made without a tuned policy.
        settings: a DistortConfig, or dotted keys such as {"per_video": 4, "mix": {"swap": 1}}.
        base: generator for `renoise`; `sampling` are its settings (a SampleConfig or dotted keys).
        finder_weights: face embedding weights, for clips whose people are not known.
        workers: processes of this call, for distortions without a generator; the result is the same for any number.
        share: work through the clips together with other processes that make the same call on this store.
        sheets: draw a contact sheet of every distortion.
    """
    from idgrpo.distort.config import DistortConfig
    from idgrpo.distort.inputs import read_samples
    from idgrpo.people.load import files_of

    if workers > 1 and (share or num_ranks() > 1):
        raise UsageError("--workers are processes of one command: they share no clips with others", fix="--workers 1")
    store = store or Store.default()
    settled = _with_renoise(settle(DistortConfig, settings), base)
    generator, pins = _generator(base, sampling) if base else (None, dict)
    sources = [find(store, "samples", one, bases_only=True) for one in listed(samples)]
    clips = join_samples([(source, read_samples(source.records)) for source in sources])
    name = name or "distorted"
    options = settled.people.options | ({"weights": str(finder_weights)} if finder_weights else {})
    files = files_of(options)
    config = settled.model_dump(mode="json") | ({"finder_files": files} if files else {})

    def make(run: Run) -> None:
        kept = store.root / "cache" / "people"
        _make(run, settled, clips, generator, finder_weights, kept, workers=workers, sheets=sheets)

    return Work(
        store, "distort", "preferences", name, {f"samples{i or ''}": source for i, source in enumerate(sources)},
        config, make, lambda: _plan(settled, sources, name, clips), pins=pins, force=force, resume=resume,
        ranks="deal", share=share,
    )  # fmt: skip


def _with_renoise(settings: "DistortConfig", base: str | None) -> "DistortConfig":
    """Put `renoise` into the default mix when there is a generator; refuse a mix that needs one when there is none."""
    from idgrpo.distort.registry import entry_of

    needing = [name for name in settings.weights() if entry_of(name).needs_generator]
    if base is None:
        if needing:
            raise UsageError(f"{needing[0]} needs a generator", fix="say --base, such as --base tiny-phantom")
        return settings
    if settings.mix or needing:
        return settings
    return settings.model_copy(update={"mix": settings.weights() | {"renoise": 1.0}})


def _generator(base: str, sampling: Settings) -> "tuple[SampleConfig, Callable[[], dict[str, Any]]]":
    """Give the settings of a generator, and what of them decides the pixels (its weights must be here for that)."""
    from idgrpo.bases.config import SampleConfig, numerics_of
    from idgrpo.bases.inventory import weights_of_entry
    from idgrpo.bases.load import resolve_entry

    settings = settle(SampleConfig, sampling).model_copy(update={"base": base})
    entry = resolve_entry(settings.named_base)
    left_out = {"batch_size", "width", "height", "frames"}
    sampler = settings.sampler.resolved(entry).model_dump(mode="json", exclude=left_out)
    numerics = numerics_of(settings.base_weights, settings.attention)
    return settings, lambda: {"generator": {"base": base, "sampler": sampler} | numerics | weights_of_entry(entry)}


def _regenerator(
    settings: "SampleConfig", prompts: Iterable[str]
) -> "Callable[[Tensor, list[Tensor], str, float, int], Tensor]":
    """Load the base and give the function `distort` calls; a clip the base cannot make is skipped with the reason."""
    from idgrpo.bases.generate import renoise
    from idgrpo.bases.sampling import load_for_renoising
    from idgrpo.distort.contract import NotPossible

    base = load_for_renoising(settings, prompts)

    def regenerate(clip: "Tensor", references: "list[Tensor]", prompt: str, level: float, seed: int) -> "Tensor":
        try:
            return renoise(base, clip, references, prompt, level, seed, sampler=settings.sampler)
        except (DataError, UsageError) as error:
            raise NotPossible(error.message) from error

    return regenerate


def _make(
    run: Run,
    settings: "DistortConfig",
    samples: "list[Sample]",
    generator: "SampleConfig | None",
    finder_weights: Path | None,
    kept: Path,
    *,
    workers: int,
    sheets: bool,
) -> None:
    """Work in the run's folder, which survives a kill, then publish."""
    from idgrpo.distort.job import exact_painter
    from idgrpo.distort.publish import copy_result
    from idgrpo.distort.sheets import draw_sheets
    from idgrpo.distort.stage import distort as damage
    from idgrpo.people.kept import load_kept_finder

    finder = None
    if any(exact_painter(sample) is None for sample in samples):
        weights = {"weights": finder_weights} if finder_weights else {}
        finder = partial(load_kept_finder, kept, settings.people.finder, **weights)
    work = run.path / "work"
    prompts = (sample.prompt for sample in samples)
    regenerate = _regenerator(on_rank(generator, run), prompts) if generator else None
    summary = damage(
        samples, settings, work, finder=finder, regenerate=regenerate, workers=workers, dealing=run.dealing
    )
    if summary is None:
        return
    if sheets:
        draw_sheets(work)
    copy_result(work, run.out.path)
    run.out.metrics.update(summary.document())


def parse_mix(text: str) -> dict[str, float]:
    """Read kinds and weights such as `swap_late=2,replace` as the setting `mix`."""
    from idgrpo.distort.config import parse_mix as parse

    return parse(text)


def _plan(settings: "DistortConfig", sources: Sequence[Source], name: str, samples: "list[Sample]") -> Plan:
    num_pairs = settings.per_video * len(samples)
    reads = ", ".join(source.ref for source in sources)
    summary = [
        f"would read   {reads}: {len(samples)} clips",
        f"would write  preferences/{name}: up to {num_pairs} pairs",
        "mix          " + ", ".join(f"{key}={weight:g}" for key, weight in settings.weights().items()),
    ]
    document = {
        "dry_run": True,
        "reads": reads,
        "clips": len(samples),
        "pairs_at_most": num_pairs,
        "config": settings.model_dump(mode="json"),
    }
    return Plan(summary, document)


def result(artifact: Artifact) -> Plan:
    """Tell what is in the artifact: kinds, strengths and labels of its pairs, and clips that were skipped."""
    from idgrpo.distort.publish import SUMMARY_FILE
    from idgrpo.distort.summary import lines_of

    document = json.loads(artifact.file(SUMMARY_FILE).read_text(encoding="utf-8"))
    return Plan(lines_of(document), {"artifact": artifact.ref, **document})
